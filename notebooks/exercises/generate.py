"""Make the exercises from their solutions: `python notebooks/exercises/generate.py [--check] [SOLUTION ...]`

A solution notebook is the one source. A code cell that begins with `def` and bears the tag `solution` is what
the reader is to write: the exercise keeps its signature and its docstring. If lines end in `# fill in: ...`,
it keeps the others too, and `...` stands in these. The folded solution goes below the hints, in the next cell
of Markdown. Everything else is copied. The title says "solutions" in one and "exercises" in the other; links
and the course are one folder nearer; what bears the tag `only-solutions` is left out. With --check nothing is
written: the names of exercises that are not what their solutions make are printed, and the exit code is 1 if
there are any.
"""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
STUB = 'raise NotImplementedError("your turn")'
# A line that holds the idea of an exercise: what stands before the answer, the answer, the comment.
BLANK = re.compile(r"^(\s*(?:return |[^=#]+ = )).*(  # fill in: .*)$", re.MULTILINE)
PATHS_IN_SOLUTION = 'sys.path[:0] = ["..", "../.."]  # where the checks and the course are'
PATHS_IN_EXERCISE = 'sys.path.insert(0, "..")  # where the course is'


def stub(source: str) -> str:
    """The function with blanks where its source marks them, or else with its docstring alone.

    Raises SyntaxError unless the source is one function with a docstring.
    """
    body = ast.parse(source).body
    function = body[0]
    if len(body) > 1 or not isinstance(function, ast.FunctionDef) or ast.get_docstring(function) is None:
        raise SyntaxError(
            f"expected one function with a docstring, got {source[:60]!r}: an exercise needs both"
        )
    if BLANK.search(source):
        return BLANK.sub(r"\1...\2", source)
    head = source.splitlines()[: function.body[0].end_lineno]
    return "\n".join([*head, f"    {STUB}"])


def folded(source: str) -> str:
    """The solution as Markdown that opens when asked for."""
    return f"<details><summary>Solution</summary>\n\n```python\n{source}\n```\n\n</details>"


def exercise(solutions: NotebookNode) -> NotebookNode:
    """The notebook with stubs that a notebook with solutions makes; its cells keep their ids."""
    notebook = nbformat.from_dict(solutions)
    notebook.cells = [cell for cell in notebook.cells if "only-solutions" not in _tags(cell)]
    solution = ""  # that the next cell of Markdown will hold
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../../", "](../")
            if solution:
                cell.source = f"{cell.source}\n\n{folded(solution)}"
                solution = ""
            continue
        if "solution" in _tags(cell):
            solution = cell.source
            cell.source = stub(solution)
        else:
            cell.source = cell.source.replace(PATHS_IN_SOLUTION, PATHS_IN_EXERCISE)
        cell.metadata = nbformat.from_dict({})
    title = notebook.cells[0]
    title.source = title.source.replace(" solutions: ", " exercises: ", 1)
    return notebook


def _tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def main(arguments: list[str]) -> int:
    """Writes the exercises that are not what their solutions make; with --check it only names them."""
    parser = argparse.ArgumentParser(description="Make the exercises from their solutions.")
    parser.add_argument("--check", action="store_true", help="write nothing, name what is out of step")
    parser.add_argument("solutions", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    tidy = runpy.run_path(str(FOLDER.parent / "store.py"))["tidy"]
    stale_paths = []
    for path in options.solutions or sorted((FOLDER / "solutions").glob("*.ipynb")):
        notebook = tidy(exercise(nbformat.read(path, as_version=4)), exercise=True)
        target = path.parents[1] / path.name
        if target.exists() and nbformat.read(target, as_version=4) == notebook:
            continue
        stale_paths.append(target)
        print(target)
        if not options.check:
            nbformat.write(notebook, target)
    return 1 if options.check and stale_paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
