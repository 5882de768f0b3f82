"""The command line, `comp-lib` or `python -m comp_lib`: one file for each command, which are put together in `app`."""

from .app import app

__all__ = ["app"]
