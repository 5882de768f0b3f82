"""Anchors of headings as Jupyter makes them, so that links of the lessons hold in the book."""

from __future__ import annotations


def as_jupyter(title: str) -> str:
    """The anchor of a heading.

    >>> as_jupyter("2 · Cost and condition")
    '2-·-Cost-and-condition'
    """
    return title.strip().replace(" ", "-")
