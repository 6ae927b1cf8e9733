"""Many students from one cache or several: a grid of settings, run, scored and compared."""
