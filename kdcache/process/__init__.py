"""This process among others: signals, ranks, and work prepared ahead in threads.

This room may import errors, files and console.
"""
