"""The check-up as a page: the notebook run by papermill, and one HTML file made of it by nbconvert.

The page holds its pictures and asks nobody for anything; it runs no script. Notebook and page carry a SHA-256 of what
was written: what somebody has changed since is never replaced. Neither the kernel nor nbconvert looks into the folder
that the user stands in: a file there that is called like one of ours is not run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..calibration.text import EVERY_KIND, TEXTS
from ..calibration.tokens import MIXTURES, WRITTEN, calibration_tokens, sources, text_hashes
from ..errors import InputError
from ..evaluation.confidence import FEWEST
from ..models.load import open_model
from ..system.files import check_output, hash_of_value
from .columns import draw
from .cost_frame import settings_for
from .differences import paired

# a wheel carries the notebook beside this file, a source checkout in its folder of notebooks
PLACES = (Path(__file__).parent, Path(__file__).parents[2] / "notebooks")
NOTEBOOK = "checkup.ipynb"
LENGTH, WINDOW = (
    256,
    128,
)  # tokens of a calibration sequence, as `prune` has it, and of a window that is looked at
SEAL = "<!-- comp-lib report, SHA-256 of all above: {} -->\n"
LOG = {
    "bar_format": "cells: {n_fmt} of {total_fmt}, {elapsed}\n",
    "mininterval": 0,
    "miniters": 1,
}  # a line for each
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'"/>{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}<style>img { max-width: 100%; height: auto }</style>{% endblock %}
"""


def check_request(asked: Mapping[str, Any]) -> None:
    """Raises InputError, before weights are read, for parameters of the notebook with which it would not run."""
    parent, _, tokenizer = open_model(asked["model"], asked["dtype"])
    draw(tokenizer, asked["kinds"], looked(asked["kinds"]), WINDOW, asked["seed"])
    text_hashes(asked["calibration"])  # raises for a text that cannot be read
    if WRITTEN.keys().isdisjoint(sources(asked["calibration"])):  # else the model has to write
        calibration_tokens(
            asked["calibration"], tokenizer, sequences=asked["sequences"], length=LENGTH, evaluated=EVERY_KIND
        )
    for name in ("ratios", "ways"):
        if not asked[name]:
            raise InputError(f"expected at least one of the {name}, got none: name one")
    for ratio in asked["ratios"]:
        for way in asked["ways"]:
            settings_for(parent, way, ratio, device=asked["device"])
    if asked["against"]:
        paired((asked["model"], parent), (asked["against"], open_model(asked["against"], asked["dtype"])[0]))


def looked(kinds: Collection[str]) -> int:
    """How many windows of each kind the layers are looked at with: as few as give intervals."""
    return -(-FEWEST // max(1, len(kinds)))


def check_page_file(path: Path, overwrite: bool) -> Path:
    """The file to write. Raises InputError unless it is new, or one to `overwrite` that is as `sealed` made it."""
    target = check_output(path, overwrite)
    if target.is_file() and not _unchanged(target):
        raise InputError(f"expected what report wrote and nobody has changed since, got {path}: move it away")
    return target


def _unchanged(path: Path) -> bool:
    try:
        text = path.read_text("utf-8")
        if path.suffix != ".ipynb":
            above = text[: text.rfind(SEAL[:4])]
            return text == above + SEAL.format(hash_of_value(above))
        notebook = json.loads(text)
        return bool(notebook["metadata"]["comp_lib"] == hash_of_value(notebook["cells"]))
    except (ValueError, TypeError, KeyError):  # no text, no JSON, or no notebook of ours
        return False


def execute(asked: Mapping[str, Any]) -> tuple[Any, str | None]:
    """The notebook (nbformat's) run with these parameters, and why it stopped, None where it ran to its end.

    asked: values of its cell of parameters, by their names. It runs in a fresh folder.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    source = next(path for folder in PLACES if (path := folder / NOTEBOOK).is_file())
    told = {
        "name": asked["model"],
        "length": LENGTH,
        "windows": FEWEST,
        "looked": looked(asked["kinds"]),
        "harm": True,
    }
    told |= dict(asked)
    for name in ("model", "against"):
        if asked[name] and (path := Path(asked[name]).expanduser()).exists():  # the kernel stands elsewhere
            told[name] = str(path.resolve())
    names, known = asked["calibration"], {*TEXTS, *MIXTURES, *WRITTEN}
    texts = [names] if Path(names).exists() else names.split("+")
    told["calibration"] = "+".join(
        x if x in known or not Path(x).is_file() else str(Path(x).resolve()) for x in texts
    )
    how: dict[str, Any] = {"kernel_name": "python3", "progress_bar": sys.stderr.isatty() or LOG}
    stopped = None
    with tempfile.TemporaryDirectory(prefix="comp-lib-") as folder:
        file = Path(folder, NOTEBOOK)
        try:
            papermill.execute_notebook(
                source, file, told, cwd=folder, extra_arguments=["--log-level=ERROR"], **how
            )
        except PapermillExecutionError as error:
            stopped = f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            stopped = "the kernel died: as a rule there was too little memory"
        notebook = nbformat.read(file, as_version=4)
    notebook.metadata["title"] = f"Check-up of {Path(told['model']).name}"
    return notebook, stopped


def sealed(notebook: Any) -> tuple[str, str]:
    """The text of an executed notebook, and of its page, each with its SHA-256."""
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor

    without = TagRemovePreprocessor(enabled=True, remove_cell_tags={"notebook-only"})
    hidden = {f"exclude_{name}": True for name in ("input", "input_prompt", "output_prompt", "anchor_links")}
    exporter = HTMLExporter(
        raw_template=TEMPLATE, extra_template_basedirs=[], preprocessors=[without], **hidden
    )
    page = f"{exporter.from_notebook_node(notebook)[0]}\n"
    cells = json.loads(nbformat.writes(notebook))["cells"]  # in the form in which they are read again
    notebook.metadata["comp_lib"] = hash_of_value(cells)
    return nbformat.writes(notebook), page + SEAL.format(hash_of_value(page))
