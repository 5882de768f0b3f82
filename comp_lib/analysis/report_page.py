"""The check-up as a page: the notebook executed by papermill, and one HTML file that asks nobody for anything.

The page has no script and no formula; pictures are in it, with their words; colours follow the reader's system. What
the notebook says to those who run it (cells tagged `notebook-only`) and views that need a kernel are left out.
"""

from __future__ import annotations

import html
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, check_package
from ..models.load import open_model
from ..models.skeleton import skeleton
from ..report import Progress, no_progress
from ..system.untrusted import read_object
from .differences import paired
from .parameters import Parameters

NOTEBOOK = "checkup.ipynb"
# a wheel carries the notebook beside this file, a source checkout in its folder of notebooks
PLACES = (Path(__file__).parent, Path(__file__).parents[2] / "notebooks")
NEEDED = ("papermill", "nbconvert", "ipykernel", "ipywidgets")
MARK = '<!DOCTYPE html>\n<html lang="en" data-made-by="comp-lib">'  # how a page of ours begins
WIDGET = "application/vnd.jupyter.widget-view+json"
LEFT_OUT = ("notebook-only", "parameters", "injected-parameters", "papermill-error-cell-tag")
QUIET: dict[str, Any] = {"extra_arguments": ["--log-level=ERROR"]}  # of the kernel: what it warns of is not for a user
LARGEST = 64 << 20  # bytes of a notebook that is read to see whose it is


@dataclass(frozen=True)
class Failure:
    """Where a check-up stopped."""

    step: str  # heading of the part
    message: str


@dataclass(frozen=True)
class Executed:
    """A notebook that ran, as far as it came."""

    notebook: Any  # nbformat's
    failure: Failure | None = None


def template() -> Path:
    """Where the notebook is. Raises InputError when the installation lacks it."""
    for folder in PLACES:
        if (path := folder / NOTEBOOK).is_file():
            return path
    raise InputError(f"expected {NOTEBOOK} in the installed package, got none: install comp-lib again")


def check_packages() -> None:
    """Raises InputError unless the packages of the extra `report` are there."""
    for name in NEEDED:
        check_package(name, f"the package {name} for a report", "pip install 'comp-lib[report]'")


def check_models(parameters: Parameters) -> None:
    """Raises InputError, without reading weights, for models that cannot be read or are no relatives."""
    names = filter(None, (parameters.model, parameters.against))
    known = [(name, skeleton(open_model(name)[1])) for name in names]
    if len(known) > 1:
        paired(*known)


def our_notebook(path: Path) -> bool:
    """Whether a notebook is one that `execute` made."""
    try:
        return "comp_lib" in read_object(path, LARGEST).get("metadata", {})
    except InputError:
        return False


def execute(values: Mapping[str, Any], progress: Progress = no_progress) -> Executed:
    """The notebook run with these parameters, in the working directory; `progress` is told of its cells.

    A cell that fails ends the run; what was there before it stays.
    Raises InputError, before any work, for a missing package, and for parameters as `Parameters.of`.
    """
    check_packages()
    parameters = Parameters.of(values)
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    told = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(parameters).items()}
    message, engine = None, _engine(progress)
    with tempfile.TemporaryDirectory(prefix="comp-lib-") as folder:
        file = Path(folder) / NOTEBOOK
        try:
            papermill.execute_notebook(
                template(), file, told, engine_name=engine, kernel_name="python3", progress_bar=False, **QUIET
            )
        except PapermillExecutionError as error:
            message = f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            message = "the kernel died: as a rule there was too little memory"
        notebook = nbformat.read(file, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if LEFT_OUT[-1] not in cell.metadata.get("tags", [])]
    notebook.metadata["comp_lib"] = {"parameters": told}
    return Executed(notebook, None if message is None else Failure(_step(notebook), message))


def _engine(progress: Progress) -> str:
    """The name of a papermill engine that tells `progress` of each cell."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Telling(NBClientEngine):  # type: ignore[misc]  # papermill brings no types
        @classmethod
        def execute_managed_notebook(cls, manager: Any, kernel: str, **options: Any) -> None:
            cells, complete, done = manager.nb.cells, manager.cell_complete, 0

            def told(*args: Any, **kwargs: Any) -> None:
                nonlocal done
                complete(*args, **kwargs)
                done += 1
                progress("cells", min(done, len(cells)), len(cells))

            manager.cell_complete = told
            progress("cells", 0, len(cells))
            super().execute_managed_notebook(manager, kernel, **options)

    papermill_engines.register("comp-lib", Telling)
    return "comp-lib"


def _step(notebook: Any) -> str:
    """The heading above the cell that failed, or that was running when the kernel died."""
    words = "\n".join(cell.source for cell in _before_the_end(notebook.cells) if cell.cell_type == "markdown")
    headings: list[str] = re.findall(r"^#+ (.+)$", words, re.MULTILINE)
    return headings[-1] if headings else ""


def page(done: Executed, notebook_name: str) -> str:
    """The page of an executed notebook that lies beside it under that name."""
    from nbconvert import HTMLExporter
    from nbformat import from_dict

    parameters = done.notebook.metadata["comp_lib"]["parameters"]
    notebook = from_dict(json.loads(json.dumps(done.notebook)))
    cells = notebook.cells if done.failure is None else _before_the_end(notebook.cells)
    notebook.cells = [_shown(cell) for cell in cells if set(LEFT_OUT).isdisjoint(cell.metadata.get("tags", []))]
    notebook.metadata.pop("widgets", None)  # the state of views that are not shown
    hidden = {f"exclude_{name}": True for name in ("input", "input_prompt", "output_prompt", "anchor_links")}
    exporter = HTMLExporter(template_name="basic", **hidden)
    body, _ = exporter.from_notebook_node(notebook)
    title = f"Check-up of {Path(parameters['model']).name}"
    title += f" against {Path(parameters['against']).name}" if parameters["against"] else ""
    end = "" if done.failure is None else _notice(done.failure, notebook_name)
    return f"""{MARK}
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"/>
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1>
<p>Every number stands beside its 95% interval (from whole windows of text, drawn anew) or the count of tokens behind
it. The notebook behind this page is {html.escape(notebook_name)}; it was asked for: {_asked(parameters)}.</p></header>
<main>
{body}
{end}
</main>
</body>
</html>
"""


def _asked(parameters: Mapping[str, Any]) -> str:
    words = []
    for name, value in parameters.items():
        value = Path(value).name if name in ("model", "against") else value  # a page is sent round: no folders
        value = ", ".join(map(str, value)) if isinstance(value, list) else value
        words.append(f"{name} {value if value != '' else 'none'}")
    return html.escape("; ".join(words))


def _notice(failure: Failure, notebook_name: str) -> str:
    return (
        f'<section role="alert" class="failure"><h2>It stopped at: {html.escape(failure.step)}</h2>'
        f"<p>{html.escape(failure.message)}</p><p>What was computed before is kept: mend the cause and give the same "
        f"command again, or open {html.escape(notebook_name)} and go on from that cell.</p></section>"
    )


def _before_the_end(cells: list[Any]) -> list[Any]:
    """The cells before the last one that was begun: it failed, or was running when the kernel died."""
    begun = [place for place, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    return cells[: begun[-1]] if begun else []


def _shown(cell: Any) -> Any:
    """The cell without what needs a kernel, and without words on stderr."""
    if cell.cell_type == "code":
        cell.outputs = [
            output for output in cell.outputs if WIDGET not in output.get("data", {}) and output.get("name") != "stderr"
        ]
    return cell


STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --soft: #f3f4f6; --line: #d0d3d9; --bad: #a40000; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #14161a; --soft: #20242b; --line: #3c424d; --bad: #ff8a80; }
  img { filter: invert(0.92) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 46rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin-top: 2.2rem; border-top: 1px solid
  var(--line); padding-top: 1rem; } h3 { font-size: 1.1rem; margin-top: 1.6rem; }
img { display: block; max-width: 100%; height: auto; margin: 0.6rem auto; }
table { display: block; width: 100%; overflow-x: auto; border-collapse: collapse; font-size: 0.88rem; margin: 0.8rem 0;
  overflow-wrap: normal; }
th, td { overflow-wrap: break-word; max-width: 16rem; padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; }
thead th { background: var(--soft); }
@media (max-width: 36rem) {
  body { padding: 0.7rem; } table { font-size: 0.78rem; } th, td { padding: 0.25rem 0.35rem; }
}
td[style*="right"], th[style*="right"] { text-align: right; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: 0.6rem; border-radius: 4px; }
code { background: var(--soft); padding: 0.1rem 0.3rem; border-radius: 3px; overflow-wrap: anywhere; }
.failure { border: 2px solid var(--bad); border-radius: 6px; padding: 0 1rem; margin-top: 2rem; }
.failure h2 { border: 0; margin-top: 0; color: var(--bad); }
"""
