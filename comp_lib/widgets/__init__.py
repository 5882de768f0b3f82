"""Interactive views: ipywidgets on top of the functions in `plots`."""
