"""The check-up as a page: papermill runs the notebook, and nbconvert makes one HTML file of it.

The page holds its pictures, loads nothing from anywhere and runs no script. Neither the kernel nor nbconvert
looks into the user's working folder, so a file there with the name of one of our modules is not run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...calibration.defaults import USUAL_LENGTH
from ...calibration.mixtures import MIXTURES, WRITTEN, shares_of, text_hashes
from ...calibration.texts import EVERY_KIND, TEXTS, find_shipped
from ...calibration.windows import calibration_tokens
from ...checkpoints.load import check_dtype, open_model
from ...evaluation.confidence import MIN_VALUES
from ...pruning.settings import USUAL_PRESET
from ...utils.errors import InputError
from .columns import draw
from .cost_frame import settings_for
from .differences import pair

NOTEBOOK = "checkup.ipynb"
# a wheel carries the notebook beside this file, a source checkout in its folder of notebooks
NOTEBOOK_FOLDERS = (Path(__file__).parent, Path(__file__).parents[3] / "notebooks")
WINDOW_LENGTH = 128  # tokens of a window on which the layers are examined
JUDGED_LENGTH = 64  # tokens of a window that judges: many short windows, since windows are what varies
# papermill's progress is one line for each cell, between the lines that cells write
PROGRESS_LINES = {
    "bar_format": "cells: {n_fmt} of {total_fmt}, {elapsed}\n",
    "mininterval": 0,
    "miniters": 1,
}
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'"/>{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}<style>img { max-width: 100%; height: auto }</style>{% endblock %}
"""


def check_page_request(parameters: Mapping[str, Any]) -> None:
    """Raises InputError, before weights are read, for parameters with which the notebook would not run."""
    kinds = parameters["kinds"]
    calibration = parameters["calibration"]
    check_dtype(parameters["dtype"])
    parent, _, tokenizer = open_model(parameters["model"], parameters["dtype"])
    draw(tokenizer, kinds, windows_of_each_kind(kinds), WINDOW_LENGTH, parameters["seed"])
    text_hashes(calibration)  # raises for a text that cannot be read
    if WRITTEN.keys().isdisjoint(shares_of(calibration)):  # else the model would have to write text now
        calibration_tokens(
            calibration,
            tokenizer,
            sequences=parameters["sequences"],
            length=USUAL_LENGTH,
            judged_on=EVERY_KIND,
        )
    for name, example in (("ratios", "0.2"), ("ways", USUAL_PRESET)):
        if not parameters[name]:
            raise InputError(expected=f"at least one of the {name}", got="none", hint=f"such as {example}")
    for ratio in parameters["ratios"]:
        for way in parameters["ways"]:
            settings_for(parent, way, ratio, device=parameters["device"])
    if parameters["against"]:
        against, *_ = open_model(parameters["against"], parameters["dtype"])
        pair((parameters["model"], parent), (parameters["against"], against))


def windows_of_each_kind(kinds: Collection[str]) -> int:
    """How many windows of each kind examine the layers: the fewest that give intervals."""
    return -(-MIN_VALUES // max(1, len(kinds)))


def execute(parameters: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Run the notebook in a fresh folder.

    parameters: values for the notebook's cell of parameters, by their names.

    What cells write to stderr, such as progress, goes to that of this process, and not into the notebook.

    Returns the notebook (nbformat's), and why it stopped: None where it ran to its end.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    values = {
        "name": parameters["model"],
        "length": USUAL_LENGTH,
        "window_count": MIN_VALUES,
        "judged_length": JUDGED_LENGTH,
        "layer_window_count": windows_of_each_kind(parameters["kinds"]),
        "loss_increase": True,
        "show_progress": True,
    }
    values |= parameters
    values["model"] = _absolute_path(parameters["model"])
    values["against"] = _absolute_path(parameters["against"])
    values["calibration"] = _absolute_paths(parameters["calibration"])
    source = find_shipped(NOTEBOOK, NOTEBOOK_FOLDERS)
    stopped = None
    with tempfile.TemporaryDirectory(prefix="comp-lib-") as folder:
        file = Path(folder, NOTEBOOK)
        try:
            papermill.execute_notebook(
                source,
                file,
                values,
                cwd=folder,
                kernel_name="python3",
                progress_bar=PROGRESS_LINES,
                stderr_file=sys.stderr,
                extra_arguments=["--log-level=ERROR"],
            )
        except PapermillExecutionError as error:
            stopped = f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            stopped = "the kernel died: as a rule there was too little memory"
        notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["title"] = f"Check-up of {Path(values['model']).name}"
    return notebook, stopped


def _absolute_path(model: str) -> str:
    """The full path of a folder or file, since the kernel runs in another folder; any other name as it is."""
    path = Path(model).expanduser()
    if model and path.exists():
        return str(path.resolve())
    return model


def _absolute_paths(calibration: str) -> str:
    """A calibration source in which each file has its full path."""
    texts = [calibration] if Path(calibration).exists() else calibration.split("+")
    names = {*TEXTS, *MIXTURES, *WRITTEN}
    for index, text in enumerate(texts):
        if text not in names and Path(text).is_file():
            texts[index] = str(Path(text).resolve())
    return "+".join(texts)


def render(notebook: Any) -> tuple[str, str]:
    """The text of an executed notebook, as a file holds it, and the HTML of its page."""
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor

    exporter = HTMLExporter(
        raw_template=TEMPLATE,
        extra_template_basedirs=[],
        preprocessors=[TagRemovePreprocessor(enabled=True, remove_cell_tags={"notebook-only"})],
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    page, _ = exporter.from_notebook_node(notebook)
    return nbformat.writes(notebook), f"{page}\n"
