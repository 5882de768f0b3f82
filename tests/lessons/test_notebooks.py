"""The notebooks as they are stored: run in order, clean, readable by everybody, and linked up.

Each guard is a function from a notebook to what is wrong with it, and each is tested on a notebook that is
wrong. Whether the cells still *run* is for nbval to say (`make test`); the end of this file tests that nbval
can fail here.
"""

from __future__ import annotations

import ast
import copy
import getpass
import os
import re
import shutil
import socket
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import store
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
ALL = [
    *sorted(NOTEBOOKS.glob("*.ipynb")),
    *sorted(NOTEBOOKS.glob("exercises/*.ipynb")),
    *sorted(NOTEBOOKS.glob("exercises/solutions/*.ipynb")),
]
# Jupyter and nbval ignore a misspelt tag and say nothing.
TAGS = {
    "nbval-check-output",
    "nbval-ignore-output",
    "check",
    "write",  # a function that the reader writes
    "written",  # its check
    "hide-input",
    "solution",
    "only-solutions",
    "parameters",
    "notebook-only",
}

# --- guards -------------------------------------------------------------------------------------------------

GUARDS = {}  # name -> function of a notebook and its path, which returns what is wrong


def guard(function):
    GUARDS[function.__name__] = function
    return function


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def numbered_outputs(notebook):
    """(number of the code cell, output) for each output."""
    for number, cell in enumerate(code_cells(notebook), 1):
        for output in cell.outputs:
            yield number, output


def start_of(cell):
    """The start of a cell, quoted, by which a message names it."""
    return repr(cell.source[:40])


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
            "not in the form that is stored (timestamps, widget views, versions): "
            "python notebooks/store.py --clean it"
        ]
    return []


@guard
def was_executed_in_order_from_a_fresh_kernel(notebook, path):
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if store.is_exercise(path):
        return [
            f"a stub is stored without outputs, got some in {start_of(cell)}"
            for cell in cells
            if cell.outputs or cell.execution_count is not None
        ]
    if counts != list(range(1, len(cells) + 1)):
        return [f"execution counts should be 1, 2, ..., are {counts}"]
    return []


@guard
def shows_no_errors_and_no_stderr(notebook, path):
    problems = []
    for number, output in numbered_outputs(notebook):
        if output.output_type == "error":
            problems.append(f"cell {number} ends in {output.ename}: {output.evalue[:80]}")
        if output.output_type == "stream" and output.name != "stdout":
            problems.append(f"cell {number} writes to {output.name}: {output.text[:80]!r}")
    return problems


# A slash after a letter, a colon, a dot or a slash is part of an address, of "and/or" or of an HTML tag.
ABSOLUTE_PATH = re.compile(
    r"(?<![\w:/.<~-])/(home|Users|root|tmp|var|usr|opt|work|mnt|media|srv|private|content)/[\w.]|\b[A-Z]:\\\w"
)
COMMON_NAMES = {  # of users and machines: they betray nobody
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
    """The user and the host, by the names that say something."""
    names = {getpass.getuser(), Path.home().name, socket.gethostname()}
    return {name for name in names if len(name) > 3 and name.lower() not in COMMON_NAMES}


def texts_of(cell):
    """The source of a cell and the texts of its outputs, without pictures."""
    texts = [cell.source]
    for output in cell.get("outputs", []):
        data = {"text": output.get("text", ""), **output.get("data", {})}
        texts += [str(content) for kind, content in data.items() if not kind.startswith("image/")]
    return [re.sub(r"data:image/[\w+;,=-]*base64,[\w+/=]*", "", text) for text in texts]


@guard
def tells_nothing_of_the_machine(notebook, path):
    problems = []
    names = names_of_this_machine()
    for cell in notebook.cells:
        for text in texts_of(cell):
            for match in ABSOLUTE_PATH.finditer(text):
                problems.append(f"absolute path in {start_of(cell)}: {match[0]}")
            for name in names:
                if re.search(rf"\b{re.escape(name)}\b", text):
                    problems.append(f"{name!r} in {start_of(cell)}")
            if str(ROOT) in text:
                problems.append(f"this folder's path in {start_of(cell)}")
    return problems


def parsed(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def shows_a_widget(cell):
    for output in cell.outputs:
        data = output.get("data", {})
        if store.WIDGET in data or store.NO_WIDGET in data.get("text/plain", ""):
            return True
    return False


def shows_a_page(cell):
    """Whether a cell shows a picture or texts as HTML."""
    return any("text/html" in output.get("data", {}) for output in cell.outputs)


@guard
def shows_a_still_of_each_widget(notebook, path):
    """A page without a kernel, a PDF and a screen reader get the same as the widget's first view.

    It is stored with the widget, or in the cell before it.
    """
    problems = []
    before = None
    for cell in code_cells(notebook):
        if shows_a_widget(cell) and not (shows_a_page(cell) or (before and shows_a_page(before))):
            problems.append(f"no picture or texts with {start_of(cell)}, or before it")
        before = cell
    return problems


@guard
def uses_known_tags_only(notebook, path):
    problems = []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        problems += [f"unknown tag {tag!r} in {start_of(cell)}" for tag in sorted(tags - TAGS)]
        if len(tags - {"hide-input"}) > 1 or {"check", "hide-input"} <= tags:
            problems.append(f"contradicting tags in {start_of(cell)}")
    for cell in code_cells(notebook):
        if re.search(r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source, re.MULTILINE):
            problems.append(f"a comment that nbval obeys in {start_of(cell)}: use tags")
    return problems


def links(notebook):
    """(cell, target) of each link and image in the prose."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
            for markdown, html in re.findall(r"\]\(\s*([^)\s]+)[^)]*\)|(?:href|src)=\"([^\"]+)\"", prose):
                yield cell, markdown or html


@guard
def links_to_what_exists(notebook, path):
    problems = []
    for cell, target in links(notebook):
        if re.match(r"https?:|mailto:|data:|attachment:", target):
            continue
        file = target.partition("#")[0]  # the book's test looks for the headings
        if file.startswith("/") or not (path.parent / file).exists():
            problems.append(f"dead link in {start_of(cell)}: {target}")
    return problems


class Images(HTMLParser):
    """Collects the alt text of each image in HTML."""

    def __init__(self, page):
        super().__init__()
        self.alts = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag in ("img", "svg"):
            attributes = dict(attributes)
            self.alts.append(attributes.get("alt") or attributes.get("aria-label") or "")


def alts_in_markdown(text):
    return re.findall(r"!\[(.*?)\]\(", text)


def too_short(alts):
    return [alt for alt in alts if len(alt.split()) < 4]


@guard
def describes_its_images(notebook, path):
    problems = []
    for number, output in numbered_outputs(notebook):
        data = output.get("data", {})
        alts = Images(str(data.get("text/html", ""))).alts
        alts += alts_in_markdown(str(data.get("text/markdown", "")))
        if any(kind.startswith("image/") for kind in data) and not alts:
            problems.append(f"cell {number} shows an image without alt text: use course.start.show")
        for alt in too_short(alts):
            problems.append(f"cell {number} shows an image with too short an alt text: {alt!r}")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for alt in too_short(Images(cell.source).alts + alts_in_markdown(cell.source)):
                problems.append(f"too short an alt text in {start_of(cell)}: {alt!r}")
    return problems


# What the first cell of a lesson says -> pattern
OPENING = {"objectives (able to)": "able to", "minutes": r"\bminutes?\b", "needs": r"\bneeds?\b"}


@guard
def opens_with_what_why_and_how_long(notebook, path):
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        return ["the first cell should be a title"]
    if path not in LESSONS:
        return []
    return [
        f"the first cell does not say: {subject}"
        for subject, pattern in OPENING.items()
        if not re.search(pattern, first.source, re.IGNORECASE)
    ]


@guard
def closes_with_takeaways_and_the_next_step(notebook, path):
    if path not in LESSONS:
        return []
    last = notebook.cells[-1]
    if last.cell_type != "markdown" or "takeaways" not in last.source.lower():
        return ["the last cell should hold the key takeaways"]
    targets = {target for cell, target in links(notebook) if cell is last}
    if not targets:
        return ["the last cell should link to the next step"]
    if path != LESSONS[-1]:
        following = LESSONS[LESSONS.index(path) + 1].name
        if following not in targets:
            return [f"the last cell should link to the next step, {following}; it links to {sorted(targets)}"]
    return []


@guard
def asserts_something(notebook, path):
    if path not in LESSONS:
        return []  # exercises have their checks
    nodes = [node for cell in code_cells(notebook) for node in ast.walk(parsed(cell))]
    if not any(isinstance(node, ast.Assert) for node in nodes):
        return ["no assert: nothing that it computes can make it fail"]
    return []


def problems_of(notebook, path):
    """What all guards find wrong with a notebook."""
    problems = []
    for name, find_problems in GUARDS.items():
        problems += [f"{name}: {problem}" for problem in find_problems(notebook, path)]
    return problems


# --- the notebooks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(NOTEBOOKS)))
def test_notebook(path):
    assert problems_of(nbformat.read(path, as_version=4), path) == []


# --- the guards can fail ------------------------------------------------------------------------------------

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
                f"## Key takeaways\n\n[Next]({LESSONS[1].name}), [above](#Title), "
                "[far](https://example.org/tmp/x)"
            ),
        ]
    )
    return store.tidy(notebook)


def change(number, **fields):
    """A function that changes one cell of a notebook."""
    return lambda notebook: notebook.cells[number].update(nbformat.from_dict(fields))


def emit(output_type, *data, **fields):
    """A function that replaces the picture by another output."""
    return change(2, outputs=[new_output(output_type, *data, **fields)])


WIDGET_VIEW = {store.WIDGET: {"model_id": "1"}, "text/plain": "VBox()"}

# what is wrong -> (guard that has to notice, change of the good notebook)
BAD = {
    "timestamps": (
        "is_valid_and_stored_in_tidy_form",
        change(1, metadata={"execution": {"iopub.status.busy": "now"}}),
    ),
    "widget view": ("is_valid_and_stored_in_tidy_form", emit("display_data", WIDGET_VIEW)),
    "not run": ("was_executed_in_order_from_a_fresh_kernel", change(1, execution_count=None)),
    "error": ("shows_no_errors_and_no_stderr", emit("error", ename="E", evalue="bad", traceback=["bad"])),
    "stderr": ("shows_no_errors_and_no_stderr", emit("stream", name="stderr", text="a warning")),
    "path of Linux": (
        "tells_nothing_of_the_machine",
        emit("stream", name="stdout", text="saved to /home/ada/x\n"),
    ),
    "path of this folder": ("tells_nothing_of_the_machine", emit("stream", name="stdout", text=f"in {ROOT}")),
    "no still": ("shows_a_still_of_each_widget", change(2, outputs=[])),
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
    guard_name, spoil = BAD[case]
    notebook = good()
    assert problems_of(notebook, PATH) == []
    spoil(notebook)
    assert GUARDS[guard_name](notebook, PATH) != []
    failing = {problem.split(":")[0] for problem in problems_of(notebook, PATH)}
    also_failing = failing - {guard_name}
    assert also_failing <= {"is_valid_and_stored_in_tidy_form", "shows_a_still_of_each_widget"}


# --- storing and checking -----------------------------------------------------------------------------------


def write_notebook(folder, *cells):
    """A notebook on disk that was never run; `cells` has (source, tag or None) of each cell."""
    notebook = new_notebook()
    for number, (source, tag) in enumerate(cells):
        metadata = {"tags": [tag]} if tag else {}
        notebook.cells.append(new_code_cell(source, id=f"cell-{number}", metadata=metadata))
    path = folder / "some.ipynb"
    nbformat.write(store.tidy(notebook), path)
    return path


PRINTS_IN_TWO_PIECES = """\
import sys, time
print(open('beside.txt').read())
sys.stdout.flush(); time.sleep(0.3); print('more')"""


def test_the_still_of_a_widget_is_stored_with_a_sentence():
    view = {store.WIDGET: {"model_id": "1"}, "text/plain": "NeuronExplorer(...)", "text/html": "<img/>"}
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[new_output("display_data", view)])])
    data = store.tidy(notebook).cells[0].outputs[0].data
    assert data == {"text/plain": store.NO_WIDGET, "text/html": f"<img/><p><i>{store.NO_WIDGET}</i></p>"}


@pytest.mark.usefixtures("kernels")
def test_storing_runs_in_the_folder_and_gives_the_same_bytes(tmp_path):
    path = write_notebook(
        tmp_path,
        (PRINTS_IN_TWO_PIECES, None),
        ("import ipywidgets\nipywidgets.IntSlider(3)", "nbval-ignore-output"),
    )
    (tmp_path / "beside.txt").write_text("found")
    assert store.main([str(path)]) == 0
    first = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert [output.text for output in notebook.cells[0].outputs] == ["found\nmore\n"]  # one piece
    assert notebook.cells[1].outputs[0].data == {"text/plain": store.NO_WIDGET}
    assert "widgets" not in notebook.metadata
    assert notebook.cells[0].metadata == {}
    assert store.main(["--clean", str(path)]) == 0
    assert path.read_bytes() == first
    assert store.main([str(path)]) == 0
    assert path.read_bytes() == first


def run_nbval(python, path):
    """pytest with nbval on one notebook, as `make test` calls it; it lists the outcome of each cell."""
    shutil.copy(NOTEBOOKS / "conftest.py", path.parent)
    (path.parent / "pytest.ini").write_text("[pytest]\n")
    options = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-rA"]
    command = [*python, "-m", "pytest", *options, str(path)]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, env=dict(os.environ))


def test_nbval_fails_on_what_is_wrong_and_nothing_else(python, tmp_path):
    path = write_notebook(
        tmp_path,
        ("import sys\nprint('exact')\nprint('a warning', file=sys.stderr)", "nbval-check-output"),
        ("print('timing 1.23 s')", None),
        ("print('as stored')", "nbval-check-output"),
        ("assert 1 + 1 == 3", None),
    )
    stored_texts = ["exact\n", "timing 9.87 s\n", "otherwise\n", None]
    notebook = nbformat.read(path, as_version=4)
    for number, (cell, text) in enumerate(zip(notebook.cells, stored_texts, strict=True), 1):
        cell.execution_count = number
        if text:
            cell.outputs = [new_output("stream", name="stdout", text=text)]
    nbformat.write(notebook, path)
    run = run_nbval(python, path)
    outcomes = re.findall(r"^([A-Z]+) some\.ipynb::(Cell \d)", run.stdout, re.MULTILINE)
    assert sorted(outcomes) == [
        ("FAILED", "Cell 2"),  # an output that is compared differs
        ("FAILED", "Cell 3"),  # an assertion fails
        ("PASSED", "Cell 0"),  # a warning on stderr is no difference
        ("PASSED", "Cell 1"),  # an output that is not compared may differ
    ], run.stdout
    assert run.returncode == 1
    assert "4 cells of 1 notebooks were executed" in run.stdout
    assert re.search(r"2 failed, 2 passed", run.stdout.splitlines()[-1])
