"""Formulas as MathML, which browsers draw by themselves: no script is loaded to read the book."""

from __future__ import annotations

import re
from typing import Literal

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

# What lessons write for JupyterLab's MathJax -> the same in LaTeX that the converter draws.
REPLACEMENTS = {
    r"\\[Bb]ig[lr]?(?=\(|\\lVert)": r"\\left",
    r"\\[Bb]ig[lr]?(?=\)|\\rVert)": r"\\right",
    r"(?<!\\left)\\lVert|(?<!\\right)\\rVert": "‖",
    r"\{aligned\}": "{align*}",
}


def drawn(formula: str, display: Literal["block", "inline"]) -> str:
    """A formula in LaTeX, as MathML."""
    for pattern, replacement in REPLACEMENTS.items():
        formula = re.sub(pattern, replacement, formula)
    return convert(formula, display=display)


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(drawn(node.astext(), "inline"))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{drawn(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
