"""Texts in a model's folder that people edit: the card, and the chat templates. Which are still ours?

The last line of a card, which Markdown does not show, holds a checksum of each of these files, as comp-lib
wrote them. A file that differs from its checksum, or has none, is somebody's work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..utils.hashes import hash_of_value

CARD_FILE = "README.md"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
RECORD = "\n<!-- checksums: "  # beginning of the record, which ends a card
RECORD_END = " -->\n"


def write_card(folder: Path, text: str) -> None:
    """Write `text` as the card of the model in `folder`, where the chat templates are already.

    A record that ends `text` is replaced.
    """
    body = text.partition(RECORD)[0]
    (folder / CARD_FILE).write_text(body, encoding="utf-8")
    record = json.dumps(_checksums(folder))
    (folder / CARD_FILE).write_text(f"{body}{RECORD}{record}{RECORD_END}", encoding="utf-8")


def edited_texts(folder: Path) -> list[str]:
    """The names of the card and of the chat templates in `folder` that are not as `write_card` left them.

    A card of an earlier version has no record, so that nobody can tell who wrote it.
    """
    checksums = _checksums(folder)
    record: dict[str, Any] = {}
    if CARD_FILE in checksums:
        record = _parse(_read(folder / CARD_FILE).partition(RECORD)[2])
        if record.get(CARD_FILE) != checksums[CARD_FILE]:
            return [CARD_FILE]  # such a card says nothing of the templates
    return [name for name, checksum in checksums.items() if record.get(name) != checksum]


def _checksums(folder: Path) -> dict[str, str]:
    """16 hex digits for the card, without its record, and for each chat template, by their file names."""
    checksums = {}
    paths = [folder / CARD_FILE, folder / TEMPLATE_FILE, *sorted((folder / TEMPLATE_FOLDER).glob("*"))]
    for path in paths:
        if path.is_file():
            text = _read(path).partition(RECORD)[0]
            checksums[path.relative_to(folder).as_posix()] = hash_of_value(text)[:16]
    return checksums


def _parse(record: str) -> dict[str, Any]:
    """The checksums of a record, by the names of the files; none where somebody has made it unreadable."""
    try:
        checksums = json.loads(record.removesuffix(RECORD_END))
    except (ValueError, RecursionError):
        return {}
    return checksums if isinstance(checksums, dict) else {}


def _read(path: Path) -> str:
    """The text of a file, with a mark in place of bytes that UTF-8 does not have."""
    return path.read_text("utf-8", errors="replace")
