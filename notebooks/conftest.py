"""How nbval compares outputs, and how long it waits for a cell.

nbval does not compare stderr: a warning does not make a result different. (No stderr is ever stored: see
tests/lessons/test_notebooks.py.)
"""

from __future__ import annotations

import os

import pytest

# Seconds for a cell, here and in store.py. The slowest cell takes about 100 s on two idle cores with a cold
# cache. A sound lesson must not fail on a laptop that has a quarter of that speed and is busy besides.
CELL_TIMEOUT = 1200


def pytest_configure(config) -> None:
    os.environ["COMP_LIB_STRICT_FIGURES"] = "1"  # a figure whose texts overlap is an error here
    if hasattr(config.option, "nbval_cell_timeout"):
        config.option.nbval_cell_timeout = CELL_TIMEOUT


def pytest_collection_modifyitems(items) -> None:
    """Each cell is a test of its own; for it the limit of pytest-timeout must not come before nbval's."""
    for item in items:
        if ".ipynb::" in item.nodeid:
            item.add_marker(pytest.mark.timeout(CELL_TIMEOUT + 60))


def pytest_collectstart(collector) -> None:
    if hasattr(collector, "skip_compare"):  # nbval's, one for each notebook
        collector.skip_compare += ("stderr",)


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how many cells ran, before pytest's last line counts them together with all other tests."""
    stats = terminalreporter.stats
    reports = [*stats.get("passed", []), *stats.get("failed", [])]
    notebooks = [report.nodeid.split("::")[0] for report in reports if ".ipynb::" in report.nodeid]
    if notebooks:
        terminalreporter.write_line(
            f"{len(notebooks)} cells of {len(set(notebooks))} notebooks were executed"
        )
