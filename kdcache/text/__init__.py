"""Text and ids: lines, pairs, the one tokenizer, its vocabulary, and checks of what it cannot give back.

This room may import the rooms of files and processes.
"""
