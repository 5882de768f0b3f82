"""Run notebooks and store their outputs: `python notebooks/store.py [--clean] NOTEBOOK ...`

Each notebook is executed from a fresh kernel in its own folder and written back with its outputs. What would
differ from run to run or from machine to machine for no reason is left out: timestamps, versions, the state
of widgets, the pieces in which a stream arrived. With --clean notebooks are only tidied, not executed.
Exercises hold stubs, which cannot run: they are stored without outputs.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

CONFTEST = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
CELL_TIMEOUT = CONFTEST["CELL_TIMEOUT"]  # seconds
WIDGET = "application/vnd.jupyter.widget-view+json"
NO_WIDGET = "An interactive view: run this notebook to use it."  # is stored in its place, below a still
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}


def is_exercise(path: Path) -> bool:
    """Whether a notebook holds stubs for the reader to fill in."""
    return path.parent.name == "exercises"


def tidy(notebook: NotebookNode, exercise: bool = False) -> NotebookNode:
    """The notebook (a new one) as it is stored: the same results, the same bytes."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    notebook.nbformat = 4
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        metadata = {"tags": tags} if tags else {}
        if {"check", "hide-input"} & set(tags):
            metadata["jupyter"] = {
                "source_hidden": True
            }  # JupyterLab folds it away; nbval runs it all the same
        cell.metadata = nbformat.from_dict(metadata)
        if cell.cell_type == "code":
            if exercise:
                cell.outputs = []
                cell.execution_count = None
            else:
                cell.outputs = _tidy_outputs(cell.outputs)
    return notebook


def _tidy_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs of a cell in the form that is stored.

    Widget views go, since their models died with the kernel: a still of the widget stays if it has one.
    Neighbouring pieces of a stream become one.
    """
    tidied: list[NotebookNode] = []
    for output in outputs:
        if output.output_type in ("display_data", "execute_result"):
            output.metadata = NotebookNode()
            if WIDGET in output.data:
                still = output.data.get("text/html")
                output.data = NotebookNode({"text/plain": NO_WIDGET})
                if still:
                    output.data["text/html"] = f"{still}<p><i>{NO_WIDGET}</i></p>"
        if tidied and output.output_type == "stream" and tidied[-1].get("name") == output.name:
            tidied[-1].text += output.text
        else:
            tidied.append(output)
    return tidied


def execute(path: Path) -> NotebookNode:
    """Run the notebook of that path from a fresh kernel in its folder. Raises CellExecutionError."""
    os.environ["COMP_LIB_STRICT_FIGURES"] = "1"  # a figure whose texts overlap is an error here
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name=KERNEL["name"],
        resources=resources,
        record_timing=False,
        store_widget_state=False,
    )
    return client.execute()


def store(path: Path, run: bool = True) -> None:
    """Execute a notebook (if `run`, and if it is no exercise), tidy it and write it back.

    A notebook that fails stays as it was.
    """
    exercise = is_exercise(path)
    if run and not exercise:
        notebook = execute(path)
    else:
        notebook = nbformat.read(path, as_version=4)
    notebook = tidy(notebook, exercise)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Run notebooks and store their outputs.")
    parser.add_argument("--clean", action="store_true", help="only tidy, do not run")
    parser.add_argument("notebooks", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    failed = []
    for path in options.notebooks:
        start = time.perf_counter()
        try:
            store(path, run=not options.clean)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed.append(path)
            print(f"{path}: FAILED, left as it was\n{error}", file=sys.stderr)
        else:
            print(f"{path}: {time.perf_counter() - start:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
