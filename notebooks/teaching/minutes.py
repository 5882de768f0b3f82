"""Minutes that add up: `python notebooks/teaching/minutes.py [--check]`

The first cell of each lesson claims its minutes (a test measures the claim). From these claims this script writes the
last column of the README's table of lessons, and the timetable of the workshop in TEACHING. With --check
nothing is written: what is out of date is printed, and the exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README, TEACHING = ROOT / "README.md", ROOT / "notebooks" / "TEACHING.md"
BEGIN, END = "<!-- timetable, by notebooks/teaching/minutes.py -->", "<!-- end of the timetable -->"
STEP = 5  # minutes: clocks in a room are not read more finely


@dataclass(frozen=True)
class Part:
    """A part of the half day: a lesson, which takes what it claims, or something of a fixed length."""

    what: str
    lesson: str = ""  # its notebook; empty: `fixed` minutes
    fixed: int = 0
    late: str = ""  # what to do with it when late


WORKSHOP = (
    Part("unpack the kit, `python install.py`, open JupyterLab", fixed=15, late="help the last ones in the break"),
    Part("00 together, the first load included", "00_start_here"),
    Part("01 together, with its predictions", "01_layer_importance", late="leave out the repairs of the proxy"),
    Part("exercises 01, one of them, in pairs", fixed=15, late="leave out; take home"),
    Part("the three-neuron toy on paper (worksheet)", fixed=15),
    Part("02 together", "02_matrix_condition", late="leave out the ridge and the token weights"),
    Part("break", fixed=15),
    Part("exercises 02, one of them, in pairs", fixed=15, late="leave out; take home"),
    Part("03 together", "03_hybrid_granularity", late="stop before the honest box"),
    Part("contest: each pair defends a plan for the same budget", fixed=15, late="leave out"),
    Part("04 together: let the fit fail before you explain the guard", "04_mask_tuning", late="stop after the guard"),
    Part("summary: the three findings of 05, and what to take home", fixed=10),
)
OPTIONAL = (
    "02b_metrics_on_trial",
    "05_comp_end_to_end",
    "06_your_own_model",
    "07_comp_vs_baselines",
    "08_on_device",
    "09_scale",
    "10_after_pruning",
)


def claimed(lesson: str) -> int:
    """The minutes that a lesson's first cell claims. Raises SystemExit where it claims none."""
    path = ROOT / "notebooks" / f"{lesson}.ipynb"
    first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
    if not (found := re.search(r"\*\*Takes\*\* about (\d+) minutes", first)):
        sys.exit(f"expected '**Takes** about N minutes' in the first cell of {path.name}")
    return int(found[1])


def lengths() -> list[int]:
    """Minutes of each part of the workshop, in whole steps."""
    wanted = (claimed(part.lesson) if part.lesson else part.fixed for part in WORKSHOP)
    return [-(-minutes // STEP) * STEP for minutes in wanted]


def clock(minutes: int) -> str:
    """Hours and minutes.

    >>> clock(95)
    '1:35'
    """
    return f"{minutes // 60}:{minutes % 60:02d}"


def timetable() -> str:
    """The workshop as a Markdown table, with what to do when late."""
    rows, start = [["from", "minutes", "what", "when late"], ["---:", "---:", "---", "---"]], 0
    for part, minutes in zip(WORKSHOP, lengths(), strict=True):
        rows.append([clock(start), str(minutes), part.what, part.late or "keep"])
        start += minutes
    rows.append([clock(start), "", f"end: {start} minutes in all", ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def optional() -> str:
    """What is not in the half day, with its minutes."""
    parts = (f"[{lesson.split('_')[0]}]({lesson}.ipynb) ({claimed(lesson)})" for lesson in OPTIONAL)
    return f"Optional, each with its minutes: {', '.join(parts)}."


def with_table(text: str, table: str) -> str:
    """The text with `table` between the marks. Raises SystemExit where there are none."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"expected the lines {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def with_minutes(text: str) -> str:
    """The README's table of lessons with the claimed minutes in its last column."""
    pattern = re.compile(r"^(\| \[[^]]*\]\(notebooks/(\w+)\.ipynb\) \|.*\| )\d+ \|$", re.MULTILINE)
    return pattern.sub(lambda match: f"{match[1]}{claimed(match[2])} |", text)


def wanted() -> dict[Path, str]:
    """What README and TEACHING should say."""
    return {
        README: with_minutes(README.read_text("utf-8")),
        TEACHING: with_table(TEACHING.read_text("utf-8"), f"{timetable()}\n\n{optional()}"),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the minutes that the lessons claim into README and TEACHING.")
    parser.add_argument("--check", action="store_true", help="write nothing, say what is out of date")
    options = parser.parse_args(arguments)
    stale = False
    for path, text in wanted().items():
        old = path.read_text("utf-8")
        for line in difflib.unified_diff(old.splitlines(), text.splitlines(), path.name, path.name, n=0, lineterm=""):
            print(line)
        stale |= old != text
        if not options.check and old != text:
            path.write_text(text, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
