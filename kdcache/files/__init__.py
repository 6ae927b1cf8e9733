"""Files that survive a crash: atomic writing, strict JSON, run records, and the places that users name.

This room may import errors.
"""
