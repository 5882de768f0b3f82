"""Interactive views: ipywidgets on top of the functions in `plots`."""

import html

from comp_lib.errors import InputError

from ..start import check_extras

check_extras()  # here, so that a notebook that imports a widget says what to install whatever it imports first


def alert(error: InputError) -> str:
    """HTML of the one sentence, which screen readers say at once."""
    return f'<p role="alert"><b>{html.escape(str(error))}</b></p>'
