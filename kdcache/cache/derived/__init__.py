"""Caches made from other caches without a teacher: transcoded or averaged.

This room may import the cache and what is below it.
"""
