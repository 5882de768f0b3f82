"""The mutation test, on a made-up course of one module and one notebook; and the project's own table fits."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]
specification = importlib.util.spec_from_file_location(
    "mutate", ROOT / "notebooks" / "teaching" / "mutate.py"
)
sys.modules["mutate"] = mutate = importlib.util.module_from_spec(specification)  # dataclasses look there
specification.loader.exec_module(mutate)
CORE = ("01_layer_importance", "02_matrix_condition", "04_mask_tuning")
MEAN = "def mean(x):\n    return sum(x) / len(x)\n\n\ndef spread(x):\n    return max(x) - min(x)\n"
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
    path.parent.mkdir(parents=True, exist_ok=True)
    words = new_markdown_cell('2 * x  # "twice"')  # in no code cell, so it does not count
    path.write_text(json.dumps(new_notebook(cells=[words, *map(new_code_cell, sources)])), "utf-8")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """The folder of a course, in which the test is."""
    folder = tmp_path / "course"
    (folder / "src" / "course").mkdir(parents=True)
    (folder / "src" / "course" / "__init__.py").touch()
    (folder / "src" / "course" / "average.py").write_text(MEAN)
    cells = (
        "from course.average import mean, spread\nspread([0, 3])",
        '\nx = 4\nassert 2 * x  # "twice"\nassert mean([1, 2, 6]) == 3',
    )
    write_notebook(folder / "lessons" / "mean.ipynb", *cells)
    (folder / "formulas.toml").write_text(TABLE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # nbval alone is needed, and asked for
    monkeypatch.setenv("PYTEST_PLUGINS", "nbval.plugin")
    # nbval imports nbformat, and so jsonschema, of which grammars for addresses take most of the time
    monkeypatch.setattr(
        mutate, "PYTEST", f"import sys; sys.modules['rfc3987_syntax'] = None; {mutate.PYTEST}"
    )
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
    assert rest == [
        "1 of 3, mean: not tried, since its notebook fails as it is"
    ]  # and the others were not even begun


@pytest.mark.parametrize(
    "right, wrong, words",
    [
        (
            "'sum(x) / len(x)'",
            "'total(x)'",
            "[mean]: expected 'total(x)' once in src/course/average.py, got 0",
        ),
        (
            """'''2 * x  # "twice"'''""",
            "'words'",
            "[twice]: expected 'words' once in lessons/mean.ipynb, got 0",
        ),
        ("'sum(x) / 2'", "'sum(x) / '", "[mean]: expected a wrong formula that is Python, got 'sum(x) / '"),
        (
            "wrong = 'max(x)'",
            "",
            "[spread]: expected the texts in, right, another one wrong, and notebook, got in, right",
        ),
        (
            "src/course",
            "../course/src/course",
            "[mean]: expected the file ../course/src/course/average.py in",
        ),
        (
            'notebook = "lessons/mean.ipynb"',
            'notebook = "formulas.toml"',
            "[mean]: expected a notebook that has to",
        ),
        ("[spread]", "[mean]", "expected a table in TOML, got formulas.toml"),
        (TABLE, "", "expected formulas, got none in formulas.toml"),
    ],
)
def test_a_bad_table_is_refused_in_a_line_before_any_work(course, capsys, monkeypatch, right, wrong, words):
    monkeypatch.setattr(mutate, "first_failure", None)
    assert TABLE.count(right)
    (course / "formulas.toml").write_text(TABLE.replace(right, wrong, 1))
    assert mutate.main(["formulas.toml"]) == 2
    out, (line,) = (text.splitlines() for text in capsys.readouterr())
    assert (
        not out
        and line.startswith(f"mutate: {words}")
        and ", got " in line
        and ": " in line.split(", got ")[1]
    )


def test_what_git_ignores_is_not_copied(course, tmp_path):
    (course / ".gitignore").write_text("# the lessons write\nbuild/\n*.tmp\n")
    (course / "build").mkdir()
    for name in ("build/large", "lessons/x.tmp"):
        (course / name).touch()
    (course / "link.py").symlink_to(course / "src" / "course" / "average.py")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "formulas.toml", "lessons"], check=True)
    files = mutate.course_files(course)
    wanted = [".gitignore", "formulas.toml", "lessons/mean.ipynb", "link.py"]
    assert files == [*wanted, "src/course/__init__.py", "src/course/average.py"]
    mutate.copy(course, files, tmp_path / "copy")
    assert not (tmp_path / "copy" / "link.py").is_symlink()


def test_what_is_to_be_broken_in_the_lessons_is_there_ten_formulas_and_each_core_lesson_twice():
    formulas = mutate.read_table(ROOT / ".ci" / "formulas.toml")
    mutate.check(formulas, ROOT)
    notebooks = [Path(formula.notebook).stem for formula in formulas]
    assert len(notebooks) >= 10 and all(notebooks.count(name) >= 2 for name in CORE)
