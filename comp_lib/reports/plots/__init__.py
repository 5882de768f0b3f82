"""Pictures: pure functions from results to figures (see `base`)."""

from .base import COLOURS, figure_with_axes, mime_bundle, png
from .kinds import plot_kinds, plot_pruned

__all__ = ["COLOURS", "figure_with_axes", "mime_bundle", "plot_kinds", "plot_pruned", "png"]
