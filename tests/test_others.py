"""benchmarks/others.py, which compares with other packages, says what is missing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from comp_lib.errors import InputError


@pytest.fixture
def others(monkeypatch):
    """The script, and `headline` that it imports."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("others")


def test_a_missing_package_is_named(others, monkeypatch):
    monkeypatch.setitem(sys.modules, "optipfair", None)
    with pytest.raises(InputError, match=r"pip install 'comp-lib\[bench\]'"):
        others.installed("optipfair")
