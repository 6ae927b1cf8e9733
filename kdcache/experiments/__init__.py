"""Many students: sweeps over settings and seeds, and the demo.

This room may import every room but the command line.
"""
