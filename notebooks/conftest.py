"""How nbval compares, and how long it waits.

A warning on stderr is no other result. (None is ever stored: see tests/lessons/test_notebooks.py.)
"""

from __future__ import annotations

import os

import pytest

# Seconds for a cell, here and in store.py. The slowest takes about 100 s on two idle cores with a cold cache: a laptop
# of a quarter of that speed, busy with something else, must not fail a sound lesson.
CELL_TIMEOUT = 1200


def pytest_configure(config) -> None:
    os.environ["COMP_LIB_STRICT_FIGURES"] = "1"  # texts of figures that lie on each other are errors here
    if hasattr(config.option, "nbval_cell_timeout"):
        config.option.nbval_cell_timeout = CELL_TIMEOUT


def pytest_collection_modifyitems(items) -> None:
    """The limit of pytest-timeout for a cell, each of which is a test of its own, must not come first."""
    for item in items:
        if ".ipynb::" in item.nodeid:
            item.add_marker(pytest.mark.timeout(CELL_TIMEOUT + 60))


def pytest_collectstart(collector) -> None:
    if hasattr(collector, "skip_compare"):  # nbval's, one for each notebook
        collector.skip_compare += ("stderr",)


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how many cells ran, before pytest's last line counts them among all else."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    cells = [report.nodeid.split("::")[0] for report in reports if ".ipynb::" in report.nodeid]
    if cells:
        terminalreporter.write_line(f"{len(cells)} cells of {len(set(cells))} notebooks were executed")
