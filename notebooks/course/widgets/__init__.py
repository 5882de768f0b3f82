"""Interactive views: ipywidgets on top of the functions in `plots`."""

import html
from typing import Any

from comp_lib.utils.errors import InputError

from ..start import check_extras

check_extras()  # whatever widget a notebook imports first, it says what to install


class WithStill:
    """Mixin for a widget: where no kernel draws it, as on GitHub and in the book, its picture shows."""

    def still(self) -> str:
        """HTML of what the widget shows now."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        """What a notebook stores: the view of the widget, and the still (IPython's protocol)."""
        bundle: dict[str, str] = super()._repr_mimebundle_(**options)  # type: ignore[misc]
        return bundle | {"text/html": self.still()}


def alert(error: InputError) -> str:
    """HTML of the sentence of an error, which screen readers say at once."""
    return f'<p role="alert"><b>{html.escape(str(error))}</b></p>'
