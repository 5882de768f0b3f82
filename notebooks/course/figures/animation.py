"""Animations that a page plays without a kernel and without a script: GIFs, each with a still.

The still says the same as the animation. A figure function returns its frames in order, each with the seconds
that it stays. The last frame says everything: it is the still, and its `alt_text` speaks for all. This module
stands in the folder `figures`, since a change of a file beside `cache.py` would void the cache.
"""

from __future__ import annotations

import html
import io
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
from IPython.display import display
from PIL import Image

from comp_lib.reports.plots.base import Picture, png

SHADES = 64  # colours of a GIF
LAST = 2.0  # seconds that the last frame stays
Frame = tuple[Picture, float]  # a picture, and the seconds that it stays


def gif_and_still(frames: Sequence[Frame]) -> tuple[bytes, bytes]:
    """A GIF that loops, and its last frame as PNG.

    The loop begins with the last frame, since printers and viewers that play no GIF show the first one.
    """
    in_order = [frames[-1], *frames[:-1]]
    pages = [Image.open(io.BytesIO(png(figure))).convert("RGB") for figure, _ in in_order]
    milliseconds = [round(1000 * seconds) for _, seconds in in_order]
    milliseconds[0] = round(1000 * LAST)
    # one palette for all frames; the default method would mix a colour of few pixels into its neighbours
    sheet = Image.fromarray(np.concatenate([np.asarray(page) for page in pages]))
    sheet = sheet.quantize(SHADES, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    height = sheet.height // len(frames)
    tops = range(0, sheet.height, height)
    still, *rest = [sheet.crop((0, top, sheet.width, top + height)) for top in tops]
    gif_file = io.BytesIO()
    still.save(gif_file, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    still_file = io.BytesIO()
    still.save(still_file, "PNG")
    return gif_file.getvalue(), still_file.getvalue()


def play(frames: Sequence[Frame]) -> None:
    """Display an animation with its alt text; below it, folded, its still.

    Readers who asked their browser for less motion see the still at once. A PDF holds the still too.
    """
    last_picture, _ = frames[-1]
    gif, still = (b64encode(data).decode("ascii") for data in gif_and_still(frames))
    alt = html.escape(last_picture.alt_text)
    source = f"data:image/png;base64,{still}"
    page = (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{source}"/>'
        f'<img alt="{alt}" src="data:image/gif;base64,{gif}"/></picture>'
        f'<details><summary>The same without motion</summary><img alt="{alt}" src="{source}"/></details>'
    )
    display({"text/html": page, "image/png": still, "text/plain": last_picture.alt_text}, raw=True)
