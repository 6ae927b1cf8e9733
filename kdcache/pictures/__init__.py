"""Pictures: curves of training runs in the terminal and as a PNG, SVG with axes, and HTML pages from templates.

This room may import console, files and errors.
"""

from kdcache.pictures.curves import Curve, read_curves
from kdcache.pictures.html_page import render_page
from kdcache.pictures.png_plot import save_png
from kdcache.pictures.terminal_plot import plot

__all__ = ["Curve", "plot", "read_curves", "render_page", "save_png"]
