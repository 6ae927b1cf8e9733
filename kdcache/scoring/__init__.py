"""Scores with their intervals: metrics, comparisons of systems, tables of results, and where numbers come from.

This room may import the student, pictures and what is below them.
"""
