"""How nbval compares: a warning on stderr is no other result. (None is ever stored: see tests/test_notebooks.py.)"""

from __future__ import annotations


def pytest_collectstart(collector) -> None:
    if hasattr(collector, "skip_compare"):  # nbval's, one for each notebook
        collector.skip_compare += ("stderr",)


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how many cells ran, before pytest's last line counts them among all else."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    cells = [report.nodeid.split("::")[0] for report in reports if ".ipynb::" in report.nodeid]
    if cells:
        terminalreporter.write_line(f"{len(cells)} cells of {len(set(cells))} notebooks were executed")
