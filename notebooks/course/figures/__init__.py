"""Figures of the lessons, a module for each: pure functions from results to pictures (see `comp_lib.plots.base`)."""
