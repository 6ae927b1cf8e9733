"""Pictures: curves of training runs, plots, SVG and the parts of HTML pages.

This room may import console, files and errors.
"""
