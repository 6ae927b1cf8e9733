"""The dump: a teacher runs once over a corpus and fills a cache; a cache is compared with its teacher.

This room may import the teacher and what is below it.
"""
