"""The notebooks as they are stored: run in order, clean, readable by everybody, and linked up.

Each guard is a function from a notebook to what is wrong with it, and each is tested on a notebook that is wrong.
That the cells still *run* is nbval's part (`make test`); the second half of this file tests that nbval can fail here.
"""

from __future__ import annotations

import ast
import copy
import getpass
import importlib.util
import os
import re
import shutil
import socket
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9]*.ipynb"))
ALL = [
    one
    for place in ("*", "exercises/*", "exercises/solutions/*")
    for one in sorted(FOLDER.glob(f"{place}.ipynb"))
]
# a misspelt tag would be ignored in silence
TAGS = {
    "nbval-check-output",
    "nbval-ignore-output",
    "check",
    "hide-input",
    "solution",
    "only-solutions",
    "parameters",
    "notebook-only",
}

specification = importlib.util.spec_from_file_location("store", FOLDER / "store.py")
store = importlib.util.module_from_spec(specification)
specification.loader.exec_module(store)

# --- guards -----------------------------------------------------------------------------------------------------------

GUARDS = {}


def guard(function):
    GUARDS[function.__name__] = function
    return function


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    """(number of the code cell, output) for each output."""
    return [
        (number, output) for number, cell in enumerate(code_cells(notebook), 1) for output in cell.outputs
    ]


@guard
def is_valid_and_stored_in_tidy_form(notebook, path):
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        return ["a cell without an id, or two of one id"]
    try:
        nbformat.validate(copy.deepcopy(notebook))  # it mends what it finds
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {error.message}"]
    if store.tidy(copy.deepcopy(notebook), store.is_exercise(path)) != notebook:
        return [
            "not in the form that is stored (timestamps, widget views, versions): python notebooks/store.py --clean it"
        ]
    return []


@guard
def was_executed_in_order_from_a_fresh_kernel(notebook, path):
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if store.is_exercise(path):
        return [
            f"a stub is stored without outputs, got some in {cell.source[:40]!r}"
            for cell in cells
            if cell.outputs or cell.execution_count is not None
        ]
    return (
        []
        if counts == list(range(1, len(cells) + 1))
        else [f"execution counts should be 1, 2, ..., are {counts}"]
    )


@guard
def shows_no_errors_and_no_stderr(notebook, path):
    found = []
    for number, output in outputs(notebook):
        if output.output_type == "error":
            found.append(f"cell {number} ends in {output.ename}: {output.evalue[:80]}")
        if output.output_type == "stream" and output.name != "stdout":
            found.append(f"cell {number} writes to {output.name}: {output.text[:80]!r}")
    return found


# a slash after a letter, a colon, a dot or another slash is part of an address, of "and/or" or of an HTML tag
PLACES = re.compile(
    r"(?<![\w:/.<~-])/(home|Users|root|tmp|var|usr|opt|work|mnt|media|srv|private|content)/[\w.]|\b[A-Z]:\\\w"
)
EVERYBODY = {
    "root",
    "user",
    "users",
    "runner",
    "jovyan",
    "admin",
    "ubuntu",
    "localhost",
    "docker",
    "build",
    "notebook",
}


def names_of_this_machine():
    names = {getpass.getuser(), Path.home().name, socket.gethostname()}
    return {name for name in names if len(name) > 3 and name.lower() not in EVERYBODY}


@guard
def tells_nothing_of_the_machine(notebook, path, names=None):
    names = names_of_this_machine() if names is None else names
    found = []
    for cell in notebook.cells:
        texts = [cell.source]
        for output in cell.get("outputs", []):
            data = {"text": output.get("text", ""), **output.get("data", {})}
            texts += [str(value) for kind, value in data.items() if not kind.startswith("image/")]
        for text in texts:
            text = re.sub(r"data:image/[\w+;,=-]*base64,[\w+/=]*", "", text)
            found += [f"absolute path in {cell.source[:40]!r}: {match[0]}" for match in PLACES.finditer(text)]
            found += [
                f"{name!r} in {cell.source[:40]!r}"
                for name in names
                if re.search(rf"\b{re.escape(name)}\b", text)
            ]
            if str(ROOT) in text:
                found.append(f"this folder's path in {cell.source[:40]!r}")
    return found


def parsed(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def shows_a_widget(cell):
    data = [output.get("data", {}) for output in cell.outputs]
    return any(store.WIDGET in each or store.NO_WIDGET in each.get("text/plain", "") for each in data)


@guard
def shows_a_still_before_each_widget(notebook, path):
    """A page without a kernel, a PDF and a screen reader get the same as the widget's first view."""
    cells = code_cells(notebook)
    return [
        f"no picture or texts in the cell before {cell.source[:40]!r}"
        for before, cell in zip([None, *cells], cells, strict=False)
        if shows_a_widget(cell)
        and not (before and any("text/html" in output.get("data", {}) for output in before.outputs))
    ]


@guard
def uses_known_tags_only(notebook, path):
    found = []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        found += [f"unknown tag {tag!r} in {cell.source[:40]!r}" for tag in sorted(tags - TAGS)]
        if len(tags) > 1:
            found.append(f"contradicting tags in {cell.source[:40]!r}")
        if cell.cell_type == "code" and re.search(
            r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source, re.MULTILINE
        ):
            found.append(f"a comment that nbval obeys in {cell.source[:40]!r}: use tags")
    return found


def links(notebook):
    """(cell, target) of each link and image in the prose."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
            for target in re.findall(r"\]\(\s*([^)\s]+)[^)]*\)|(?:href|src)=\"([^\"]+)\"", prose):
                yield cell, target[0] or target[1]


@guard
def links_to_what_exists(notebook, path):
    found = []
    for cell, target in links(notebook):
        if re.match(r"https?:|mailto:|data:|attachment:", target):
            continue
        place = target.partition("#")[0]  # the book's test looks for the headings
        if place.startswith("/") or not (path.parent / place).exists():
            found.append(f"dead link in {cell.source[:40]!r}: {target}")
    return found


class Images(HTMLParser):
    """Collects the alt text of each image."""

    def __init__(self, text):
        super().__init__()
        self.alts = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag in ("img", "svg"):
            given = dict(attributes)
            self.alts.append(given.get("alt") or given.get("aria-label") or "")


@guard
def describes_its_images(notebook, path):
    found = []
    for number, output in outputs(notebook):
        data = output.get("data", {})
        page, markdown = str(data.get("text/html", "")), str(data.get("text/markdown", ""))
        alts = Images(page).alts + re.findall(r"!\[(.*?)\]\(", markdown)
        if any(kind.startswith("image/") for kind in data) and not alts:
            found.append(f"cell {number} shows an image without alt text: use course.start.show")
        found += [
            f"cell {number} shows an image with too short an alt text: {alt!r}"
            for alt in alts
            if len(alt.split()) < 4
        ]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            alts = Images(cell.source).alts + re.findall(r"!\[(.*?)\]\(", cell.source)
            found += [
                f"too short an alt text in {cell.source[:40]!r}: {alt!r}"
                for alt in alts
                if len(alt.split()) < 4
            ]
    return found


@guard
def opens_with_what_why_and_how_long(notebook, path):
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        return ["the first cell should be a title"]
    wanted = (
        {"objectives (able to)": "able to", "minutes": r"\bminutes?\b", "needs": r"\bneeds?\b"}
        if path in LESSONS
        else {}
    )
    return [
        f"the first cell does not say: {what}"
        for what, pattern in wanted.items()
        if not re.search(pattern, first.source, re.IGNORECASE)
    ]


@guard
def closes_with_takeaways_and_the_next_step(notebook, path):
    if path not in LESSONS:
        return []
    last, found = notebook.cells[-1], []
    if last.cell_type != "markdown" or "takeaways" not in last.source.lower():
        return ["the last cell should hold the key takeaways"]
    targets = {target for cell, target in links(notebook) if cell is last}
    following = [other.name for other in LESSONS[LESSONS.index(path) + 1 :][:1]]
    if not targets or (following and following[0] not in targets):
        found.append(
            f"the last cell should link to the next step, {following or 'any'}; it links to {sorted(targets)}"
        )
    return found


@guard
def asserts_something(notebook, path):
    if path not in LESSONS:
        return []  # exercises have their checks
    asserts = [
        node
        for cell in code_cells(notebook)
        for node in ast.walk(parsed(cell))
        if isinstance(node, ast.Assert)
    ]
    return [] if asserts else ["no assert: nothing that it computes can make it fail"]


def problems(notebook, path):
    return [f"{name}: {problem}" for name, check in GUARDS.items() for problem in check(notebook, path)]


# --- the notebooks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(FOLDER)))
def test_notebook(path):
    assert problems(nbformat.read(path, as_version=4), path) == []


# --- the guards can fail ----------------------------------------------------------------------------------------------

PATH = LESSONS[0]
PICTURE = {
    "image/png": "aGVsbG8=",
    "text/plain": "words",
    "text/html": '<img alt="A chart of four bars." src="data:,"/>',
}


def good():
    """A small notebook with which nothing is wrong, as if it lay where the first lesson lies."""
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Title\n\nYou will be able to read. **Takes** 5 minutes. **Needs** nothing."),
            new_code_cell(
                "from course.widgets.generation import GenerationBox\nprint('/ and and/or')",
                execution_count=1,
                outputs=[new_output("stream", name="stdout", text="/ and and/or </td>\n")],
            ),
            new_code_cell(
                "assert 1 + 1 == 2\npicture",
                execution_count=2,
                outputs=[new_output("display_data", dict(PICTURE))],
            ),
            new_code_cell(
                "GenerationBox()",
                execution_count=3,
                metadata={"tags": ["nbval-ignore-output"]},
                outputs=[new_output("execute_result", {"text/plain": store.NO_WIDGET}, execution_count=3)],
            ),
            new_markdown_cell(
                f"## Key takeaways\n\n[Next]({LESSONS[1].name}), [above](#Title), [far](https://example.org/tmp/x)"
            ),
        ]
    )
    return store.tidy(notebook)


def change(number, **fields):
    """A change of one cell."""

    def changed(notebook):
        notebook.cells[number].update(nbformat.from_dict(fields))

    return changed


def emit(output_type, *data, **fields):
    """The picture's cell shows something else."""
    return change(2, outputs=[new_output(output_type, *data, **fields)])


def unseen_widget(notebook):
    notebook.cells[2].outputs = [
        new_output("display_data", {store.WIDGET: {"model_id": "1"}, "text/plain": "VBox()"})
    ]


BAD = {
    "timestamps": (
        "is_valid_and_stored_in_tidy_form",
        change(1, metadata={"execution": {"iopub.status.busy": "now"}}),
    ),
    "widget view": ("is_valid_and_stored_in_tidy_form", unseen_widget),
    "not run": ("was_executed_in_order_from_a_fresh_kernel", change(1, execution_count=None)),
    "error": ("shows_no_errors_and_no_stderr", emit("error", ename="E", evalue="bad", traceback=["bad"])),
    "stderr": ("shows_no_errors_and_no_stderr", emit("stream", name="stderr", text="a warning")),
    "path of Linux": (
        "tells_nothing_of_the_machine",
        emit("stream", name="stdout", text="saved to /home/ada/x\n"),
    ),
    "path of this folder": ("tells_nothing_of_the_machine", emit("stream", name="stdout", text=f"in {ROOT}")),
    "no still": ("shows_a_still_before_each_widget", change(2, outputs=[])),
    "misspelt tag": ("uses_known_tags_only", change(2, metadata={"tags": ["nbval-check-outputs"]})),
    "two tags": ("uses_known_tags_only", change(2, metadata={"tags": sorted(TAGS)})),
    "comment for nbval": ("uses_known_tags_only", change(2, source="# NBVAL_SKIP\nassert True")),
    "dead link": (
        "links_to_what_exists",
        change(0, source="# T\n\nable to, minutes, needs [x](nowhere.ipynb)"),
    ),
    "image without HTML": (
        "describes_its_images",
        emit("display_data", {"image/png": "aGk=", "text/plain": "Fig"}),
    ),
    "image without alt": (
        "describes_its_images",
        emit("display_data", PICTURE | {"text/html": '<img src="data:,"/>'}),
    ),
    "picture in prose": (
        "describes_its_images",
        change(0, source="# Title\n\nable to, minutes, needs ![](store.py)"),
    ),
    "no title": ("opens_with_what_why_and_how_long", change(0, source="# Title\n\nminutes, needs")),
    "no takeaways": ("closes_with_takeaways_and_the_next_step", change(4, source="Bye. [next](store.py)")),
    "no next step": (
        "closes_with_takeaways_and_the_next_step",
        change(4, source="Key takeaways. [back](store.py)"),
    ),
    "no assert": ("asserts_something", change(2, source="picture")),
}


@pytest.mark.parametrize("case", BAD)
def test_the_guards_can_fail(case):
    name, spoil = BAD[case]
    notebook = good()
    assert problems(notebook, PATH) == []
    spoil(notebook)
    assert GUARDS[name](notebook, PATH) != []
    others = {other.split(":")[0] for other in problems(notebook, PATH)} - {name}
    assert others <= {"is_valid_and_stored_in_tidy_form", "shows_a_still_before_each_widget"}


# --- storing and checking ---------------------------------------------------------------------------------------------


def written(folder, *cells, name="some.ipynb"):
    """A notebook on disk, never run: (source, tag or None) for each cell."""
    notebook = new_notebook(
        cells=[
            new_code_cell(source, id=f"cell-{i}", metadata={"tags": [tag]} if tag else {})
            for i, (source, tag) in enumerate(cells)
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(store.tidy(notebook), folder / name)
    return folder / name


@pytest.mark.usefixtures("kernels")
def test_storing_runs_in_the_folder_and_gives_the_same_bytes(tmp_path):
    path = written(
        tmp_path,
        (
            "import sys, time\nprint(open('beside.txt').read())\nsys.stdout.flush(); time.sleep(0.3); print('more')",
            None,
        ),
        ("import ipywidgets\nipywidgets.IntSlider(3)", "nbval-ignore-output"),
    )
    (tmp_path / "beside.txt").write_text("found")
    assert store.main([str(path)]) == 0
    first = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert [output.text for output in notebook.cells[0].outputs] == ["found\nmore\n"]  # one piece
    assert notebook.cells[1].outputs[0].data == {"text/plain": store.NO_WIDGET}
    assert "widgets" not in notebook.metadata and notebook.cells[0].metadata == {}
    assert store.main(["--clean", str(path)]) == 0 and path.read_bytes() == first
    assert store.main([str(path)]) == 0 and path.read_bytes() == first


def nbval(python, path, *options):
    """pytest with nbval on one notebook, as `make test` calls it."""
    shutil.copy(FOLDER / "conftest.py", path.parent)
    (path.parent / "pytest.ini").write_text("[pytest]\n")
    command = [
        *python,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    return subprocess.run(
        [*command, str(path)], cwd=path.parent, capture_output=True, text=True, env=dict(os.environ)
    )


def test_nbval_fails_on_what_is_wrong_and_nothing_else(python, tmp_path):
    path = written(
        tmp_path,
        ("import sys\nprint('exact')\nprint('a warning', file=sys.stderr)", "nbval-check-output"),
        ("print('timing 1.23 s')", None),
        ("print('as stored')", "nbval-check-output"),
        ("assert 1 + 1 == 3", None),
    )
    notebook = nbformat.read(path, as_version=4)
    for count, (cell, text) in enumerate(
        zip(notebook.cells, ["exact", "timing 9.87 s", "otherwise", ""], strict=True), 1
    ):
        cell.execution_count = count
        cell.outputs = [new_output("stream", name="stdout", text=f"{text}\n")] if text else []
    nbformat.write(notebook, path)
    done = nbval(python, path, "-rA")
    outcome = {
        cell: word for word, cell in re.findall(r"^(\w+) some\.ipynb::(Cell \d)", done.stdout, re.MULTILINE)
    }
    # stderr is no difference, an unchecked output neither; a checked output and a wrong assert are
    assert outcome == {"Cell 0": "PASSED", "Cell 1": "PASSED", "Cell 2": "FAILED", "Cell 3": "FAILED"}, (
        done.stdout
    )
    assert done.returncode == 1
    assert "4 cells of 1 notebooks were executed" in done.stdout
    assert re.search(r"2 failed, 2 passed", done.stdout.splitlines()[-1])
