"""Performance, measured as ratios of things that run alternately: `python -m benchmarks NAME`."""
