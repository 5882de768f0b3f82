"""Pictures: pure functions from results to figures (see `base`), a module for each lesson."""

from .base import COLOURS, figure_with_axes, html_image, mime_bundle, png
from .start_here import plot_pruned

__all__ = ["COLOURS", "figure_with_axes", "html_image", "mime_bundle", "plot_pruned", "png"]
