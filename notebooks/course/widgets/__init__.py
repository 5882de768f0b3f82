"""Interactive views: ipywidgets on top of the functions in `plots`."""

import html

from comp_lib.errors import InputError

from ..start import check_extras

check_extras()  # whatever widget a notebook imports first, it says what to install


def alert(error: InputError) -> str:
    """HTML of the sentence of an error, which screen readers say at once."""
    return f'<p role="alert"><b>{html.escape(str(error))}</b></p>'
