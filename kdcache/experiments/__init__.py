"""Experiments: sweeps, which train and compare many students, and the demo.

This room may import every room but the command line.
"""

from kdcache.experiments.run_sweep import forecast_sweep, run_sweep
from kdcache.experiments.sweep_file import read_sweep

__all__ = ["forecast_sweep", "read_sweep", "run_sweep"]
