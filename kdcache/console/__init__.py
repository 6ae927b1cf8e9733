"""What a user sees of long work and of numbers: progress and tables.

This room may import errors and files.
"""
