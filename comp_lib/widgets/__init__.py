"""Interactive views: ipywidgets on top of the functions in `plots`."""

from ..notebook import check_extras

check_extras()  # here, so that a notebook that imports a widget says what to install whatever it imports first
