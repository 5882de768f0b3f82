"""Animations that a page plays without a kernel and without a script: GIFs, each with a still that says the same.

A figure function returns its frames in order, each with the seconds that it stays. The last one says everything: it is
the still, and its `alt_text` speaks for all. It stands in this folder, since a file beside it would void the cache.
"""

from __future__ import annotations

import html
import io
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
from IPython.display import display
from PIL import Image

from comp_lib.plots.base import Picture, png

SHADES = 64  # colours of a GIF
LAST = 2.0  # seconds that the last frame stays
Frame = tuple[Picture, float]  # and its seconds


def gif_and_still(frames: Sequence[Frame]) -> tuple[bytes, bytes]:
    """A GIF that loops, and its last frame as PNG.

    The loop begins with the last frame: that one is printed, and shown by what does not play a GIF.
    """
    pages = [Image.open(io.BytesIO(png(figure))).convert("RGB") for figure, _ in (frames[-1], *frames[:-1])]
    # one palette for all frames; the default method would mix a colour of few pixels into its neighbours
    sheet = Image.fromarray(np.concatenate([np.asarray(page) for page in pages]))
    sheet = sheet.quantize(SHADES, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    height = sheet.height // len(frames)
    still, *others = [
        sheet.crop((0, top, sheet.width, top + height)) for top in range(0, sheet.height, height)
    ]
    milliseconds = [round(1000 * seconds) for seconds in (LAST, *(seconds for _, seconds in frames[:-1]))]
    moving, resting = io.BytesIO(), io.BytesIO()
    still.save(moving, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    still.save(resting, "PNG")
    return moving.getvalue(), resting.getvalue()


def play(frames: Sequence[Frame]) -> None:
    """Display an animation with its alt text; below it, folded, its still.

    Whoever asked the browser for less motion sees the still at once; a PDF holds it too.
    """
    words = frames[-1][0].alt_text
    gif, still = (b64encode(data).decode("ascii") for data in gif_and_still(frames))
    alt, source = html.escape(words), f"data:image/png;base64,{still}"
    page = (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{source}"/>'
        f'<img alt="{alt}" src="data:image/gif;base64,{gif}"/></picture>'
        f'<details><summary>The same without motion</summary><img alt="{alt}" src="{source}"/></details>'
    )
    display({"text/html": page, "image/png": still, "text/plain": words}, raw=True)
