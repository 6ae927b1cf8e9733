"""What a cache knows, in numbers, sentences and one HTML page.

This room may import the cache, pictures and what is below them.
"""
