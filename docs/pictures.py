"""Take the pictures of docs/how-it-works.md out of the lessons' stored outputs: `python docs/pictures.py`

The page names a cell for each: `how/NOTEBOOK.CELL.png`. The last output of that cell with a PNG is written
there, of an animation the still. The alt text is the first sentence of what the lesson says to those who
cannot see the picture, without what is in brackets: the page says the rest. A test asks whether both are up
to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from base64 import b64decode
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-it-works.md"
PICTURE = re.compile(r"!\[[^]]*\]\((how/(\w+)\.([\w-]+)\.png)\)")
BRACKETS_AND_REST = re.compile(r" [([][^])]*[])]|(?<=\.) .*")


def picture(notebook: str, cell_id: str) -> tuple[bytes, str]:
    """The PNG that this cell of a lesson stores, and its alt text."""
    lesson = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    (cell,) = (cell for cell in lesson.cells if cell.id == cell_id)
    outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
    *_, data = (output for output in outputs if "image/png" in output)
    return b64decode(data["image/png"]), BRACKETS_AND_REST.sub("", data["text/plain"])


def expected_files() -> dict[Path, bytes]:
    """What the page and its pictures should hold."""
    text = PAGE.read_text("utf-8")
    files = {}
    for match in PICTURE.finditer(text):
        files[PAGE.parent / match[1]], alt = picture(match[2], match[3])
        text = text.replace(match[0], f"![{alt}]({match[1]})")
    return files | {PAGE: text.encode()}


def main(arguments: list[str]) -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    for path, content in expected_files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1:])
