"""The mutation test, on a made-up course of one module and one notebook; and the project's own table fits."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from teaching import mutate

ROOT = Path(__file__).resolve().parents[2]
CORE = ("01_layer_importance", "02_matrix_condition", "04_mask_tuning")
MODULE = "def mean(x):\n    return sum(x) / len(x)\n\n\ndef spread(x):\n    return max(x) - min(x)\n"
TABLE = """
[mean]
in = "src/course/average.py"
right = 'sum(x) / len(x)'
wrong = 'sum(x) / 2'
notebook = "lessons/mean.ipynb"

[spread]
in = "src/course/average.py"
right = 'max(x) - min(x)'
wrong = 'max(x)'
notebook = "lessons/mean.ipynb"

[twice]
in = "lessons/mean.ipynb"
right = '''2 * x  # "twice"'''
wrong = '3 * x'
"""


def write_notebook(path, *sources):
    """A notebook of code cells, below one of prose that holds a formula too: it does not count."""
    prose = new_markdown_cell('2 * x  # "twice"')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(new_notebook(cells=[prose, *map(new_code_cell, sources)])), "utf-8")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """The folder of a course; the test runs in it."""
    folder = tmp_path / "course"
    package = folder / "src" / "course"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "average.py").write_text(MODULE)
    write_notebook(
        folder / "lessons" / "mean.ipynb",
        "from course.average import mean, spread\nspread([0, 3])",
        '\nx = 4\nassert 2 * x  # "twice"\nassert mean([1, 2, 6]) == 3',
    )
    (folder / "formulas.toml").write_text(TABLE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # only nbval is needed
    monkeypatch.setenv("PYTEST_PLUGINS", "nbval.plugin")
    # nbval imports jsonschema, which spends most of its time on grammars for addresses.
    without_grammars = "import sys; sys.modules['rfc3987_syntax'] = None; "
    monkeypatch.setattr(mutate, "PYTEST", without_grammars + mutate.PYTEST)
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_what_a_cell_asserts_is_noticed_and_what_none_asserts_is_not(course, capsys):
    before = contents(course)
    assert mutate.main(["formulas.toml", "--only", "mean", "--only", "spread", "--keep-going"]) == 1
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("lessons/mean.ipynb as it is: passes, ")
    assert rest == [
        "1 of 2, mean: noticed by cell 1: x = 4",
        "2 of 2, spread: NOT NOTICED by lessons/mean.ipynb",
    ]
    assert contents(course) == before


@pytest.mark.slow
def test_a_notebook_that_fails_anyway_notices_nothing(course, capsys):
    write_notebook(course / "lessons" / "mean.ipynb", 'x = 1\n2 * x  # "twice"', "assert not x")
    assert mutate.main(["formulas.toml"]) == 1
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("lessons/mean.ipynb as it is: cell 1: assert not x, ")
    # The other formulas were not even begun.
    assert rest == ["1 of 3, mean: not tried, since its notebook fails as it is"]


@pytest.mark.parametrize(
    "good, bad, message",  # `good` is part of TABLE, and is replaced by `bad`
    [
        pytest.param(
            "'sum(x) / len(x)'",
            "'total(x)'",
            "[mean]: expected 'total(x)' once in src/course/average.py, got 0",
            id="formula not in the module",
        ),
        pytest.param(
            """'''2 * x  # "twice"'''""",
            "'words'",
            "[twice]: expected 'words' once in lessons/mean.ipynb, got 0",
            id="formula not in the notebook",
        ),
        pytest.param(
            "'sum(x) / 2'",
            "'sum(x) / '",
            "[mean]: expected a wrong formula that is Python, got 'sum(x) / '",
            id="wrong formula that is no Python",
        ),
        pytest.param(
            "wrong = 'max(x)'",
            "",
            "[spread]: expected the texts in, right, another one wrong, and notebook, got in, right",
            id="field missing",
        ),
        pytest.param(
            "src/course",
            "../course/src/course",
            "[mean]: expected the file ../course/src/course/average.py in",
            id="file outside the course",
        ),
        pytest.param(
            'notebook = "lessons/mean.ipynb"',
            'notebook = "formulas.toml"',
            "[mean]: expected a notebook that has to",
            id="notebook that is none",
        ),
        pytest.param(
            "[spread]", "[mean]", "expected a table in TOML, got formulas.toml", id="name used twice"
        ),
        pytest.param(TABLE, "", "expected formulas, got none in formulas.toml", id="empty table"),
    ],
)
def test_a_bad_table_is_refused_in_a_line_before_any_work(course, capsys, monkeypatch, good, bad, message):
    monkeypatch.setattr(mutate, "first_failure", None)
    assert good in TABLE
    (course / "formulas.toml").write_text(TABLE.replace(good, bad, 1))
    assert mutate.main(["formulas.toml"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith(f"mutate: {message}")
    assert ": " in line.split(", got ")[1]


def test_what_git_ignores_is_not_copied(course, tmp_path):
    (course / ".gitignore").write_text("# the lessons write\nbuild/\n*.tmp\n")
    (course / "build").mkdir()
    for name in ("build/large", "lessons/x.tmp"):
        (course / name).touch()
    (course / "link.py").symlink_to(course / "src" / "course" / "average.py")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "formulas.toml", "lessons"], check=True)
    files = mutate.course_files(course)
    assert files == [
        ".gitignore",
        "formulas.toml",
        "lessons/mean.ipynb",
        "link.py",
        "src/course/__init__.py",
        "src/course/average.py",
    ]
    mutate.copy(course, files, tmp_path / "copy")
    assert not (tmp_path / "copy" / "link.py").is_symlink()


def test_the_table_of_this_course_fits_and_breaks_each_core_lesson_twice():
    formulas = mutate.read_table(ROOT / ".ci" / "formulas.toml")
    mutate.check(formulas, ROOT)
    notebooks = [Path(formula.notebook).stem for formula in formulas]
    assert len(notebooks) >= 10
    for name in CORE:
        assert notebooks.count(name) >= 2
