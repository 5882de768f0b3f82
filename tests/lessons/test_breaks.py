"""The mutation test (`.ci/break.py`, which takes minutes): what it breaks is there, once, and in every core lesson."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
breaks = runpy.run_path(str(ROOT / ".ci" / "break.py"))
CORE = ("01_layer_importance", "02_matrix_condition", "04_mask_tuning")


@pytest.mark.parametrize("place, right, wrong, notebook", breaks["BREAKS"])
def test_what_is_to_be_broken_is_there(tmp_path, place, right, wrong, notebook):
    for folder in ("comp_lib", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "exercises"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    breaks["spoil"](tmp_path, place, right, wrong, notebook)
    (changed,) = [path for path, content in before.items() if path.read_bytes() != content]
    assert changed.suffix == (".ipynb" if place == breaks["CELL"] else ".py")


def test_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "comp_lib").mkdir()
    (tmp_path / "comp_lib" / "plan.py").write_text("x = 1\n")
    with pytest.raises(SystemExit, match="expected 'y = 1' once in plan.py, got 0"):
        breaks["spoil"](tmp_path, "plan.py", "y = 1", "y = 2", "any")


def test_each_core_lesson_is_broken_twice_and_ten_formulas_in_all():
    notebooks = [notebook for *_, notebook in breaks["BREAKS"]]
    assert len(notebooks) >= 10 and all(notebooks.count(name) >= 2 for name in CORE)
