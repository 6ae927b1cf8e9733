"""Scores with their intervals: metrics, comparisons of systems, tables of results, and where numbers come from.

This room may import the student, pictures and what is below them. Scoring a text loads no torch.
"""

from kdcache.scoring.score_config import METRICS, MetricSettings, ScoreConfig

__all__ = ["METRICS", "MetricSettings", "ScoreConfig"]
