"""Minutes that add up: `python notebooks/teaching/minutes.py [--check]`

The count is that of a slow reader: a minute for 150 words and for 10 visible lines of code, two minutes for each table
and each prediction. What the machine computes comes on top; the first cell of a lesson says how long that takes. The
first cell also claims the minutes of the lesson, and a test compares this claim with the count.

This script writes the claims into docs/lessons.md, and the two timetables into TEACHING. With --check
nothing is written: what is out of date is printed, and the exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIST, TEACHING = ROOT / "docs" / "lessons.md", ROOT / "notebooks" / "TEACHING.md"
WORDS_A_MINUTE, LINES_A_MINUTE, MINUTES_TO_THINK = 150, 10, 2
STEP = 5  # minutes: clocks in a room are not read more finely
Cell = Mapping[str, Any]


# --- the count --------------------------------------------------------------------------------------------------------


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def is_visible_code(cell: Cell) -> bool:
    return cell["cell_type"] == "code" and not {"check", "hide-input"} & set(cell["metadata"].get("tags", []))


def lines_of(cell: Cell) -> int:
    """Lines of a cell that are not empty."""
    return sum(bool(line.strip()) for line in source(cell).splitlines())


def words_of(text: str) -> int:
    """Words of Markdown, without blocks of code, formulas on their own line, comments and tables; `x` and $x$ are one.

    >>> words_of("The **price** of `w_i` is $s_i$.")
    6
    """
    text = re.sub(r"```.*?```|\$\$.*?\$\$|<!--.*?-->", " ", text, flags=re.DOTALL)
    text = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("|"))
    text = re.sub(r"\$[^$]*\$|`[^`]*`|<[^>]+>|!\[[^\]]*\]\([^)]*\)", " x ", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return len(re.findall(r"[A-Za-z][A-Za-z'-]*", text))


def words(cells: Sequence[Cell]) -> int:
    """Words of the prose, the folded answers among them: a slow reader opens them all."""
    return sum(words_of(source(cell)) for cell in cells if cell["cell_type"] == "markdown")


def code_lines(cells: Sequence[Cell]) -> int:
    return sum(lines_of(cell) for cell in cells if is_visible_code(cell))


def tables(cells: Sequence[Cell]) -> int:
    """Tables: those in the prose, and those that a cell shows."""
    looks = {"markdown": r"^\|[ :|-]+\|$", "code": r"^table\("}
    return sum(len(re.findall(looks[cell["cell_type"]], source(cell), re.MULTILINE)) for cell in cells)


def predictions(cells: Sequence[Cell]) -> int:
    """Folded answers to a prediction that come right before the cell that settles it."""
    return sum(
        "**Predict" in source(cell) and "<details>" in source(cell) and following["cell_type"] == "code"
        for cell, following in pairwise(cells)
    )


def reading(cells: Sequence[Cell]) -> float:
    """Minutes of a slow reader, without what the machine computes."""
    thinking = MINUTES_TO_THINK * (tables(cells) + predictions(cells))
    return words(cells) / WORDS_A_MINUTE + code_lines(cells) / LINES_A_MINUTE + thinking


def said(cells: Sequence[Cell], pattern: str) -> int | None:
    """The number that the first cell says in these words."""
    found = re.search(pattern, source(cells[0]))
    return int(found[1]) if found else None


def claims(cells: Sequence[Cell]) -> int | None:
    return said(cells, r"\*\*Takes\*\* about (\d+) minutes")


def computes(cells: Sequence[Cell]) -> int:
    return said(cells, r"computes for (?:about )?(\d+)") or 0


def counted(cells: Sequence[Cell]) -> float:
    """Minutes of a lesson: a slow reader's, and the machine's."""
    return reading(cells) + computes(cells)


def sections(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Heading -> its cells; prose is cut where a heading stands, and what comes before the first has the name ""."""
    found: dict[str, list[Cell]] = {"": []}
    for name, cell in _pieces(cells):
        found.setdefault(name, []).append(cell)
    return found


def _pieces(cells: Sequence[Cell]) -> Iterator[tuple[str, Cell]]:
    name = ""
    for cell in cells:
        if cell["cell_type"] == "code":
            yield name, cell
            continue
        for piece in re.split(r"^(?=##+ )", source(cell), flags=re.MULTILINE):
            if heading := re.match(r"##+ (?:\d+ · )?(.*)", piece):
                name = heading[1]
            yield name, {**cell, "source": piece}


def cells_of(lesson: str) -> list[Cell]:
    return json.loads((ROOT / "notebooks" / f"{lesson}.ipynb").read_text("utf-8"))["cells"]


def claimed(lesson: str) -> int:
    """The minutes that a lesson's first cell claims. Raises SystemExit where it claims none."""
    if (found := claims(cells_of(lesson))) is None:
        sys.exit(f"expected '**Takes** about N minutes' in the first cell of {lesson}.ipynb")
    return found


# --- the timetables ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of a workshop: a lesson or some of its sections, which are counted, or something of a fixed length."""

    what: str
    lesson: str = ""  # its notebook; empty: `fixed` minutes
    fixed: int = 0
    only: tuple[str, ...] = ()  # headings; empty: the whole lesson
    without: tuple[str, ...] = ()  # headings that are left out
    late: str = "keep"  # what to do with it when late

    def minutes(self) -> float:
        """Raises SystemExit where a heading is not in the lesson."""
        if not self.lesson:
            return self.fixed
        cells = cells_of(self.lesson)
        parts = sections(cells)
        if unknown := {*self.only, *self.without} - set(parts):
            sys.exit(
                f"expected headings of {self.lesson}.ipynb, got {', '.join(sorted(unknown))}: look them up there"
            )
        chosen = [
            name for name in parts if name not in self.without and (not self.only or name in ("", *self.only))
        ]
        return computes(cells) + sum(reading(parts[name]) for name in chosen)


AT_HOME = ("Your turn", "Quiz")
HALF_DAY = (
    Part("00 together", "00_start_here", without=AT_HOME, late='leave out "Is the sum right?"'),
    Part(
        "01 together",
        "01_layer_importance",
        without=("Explore", *AT_HOME),
        late="leave out the repairs of the proxy",
    ),
    Part("exercise 1 of 01, in pairs", fixed=5, late="take home"),
    Part("the three-neuron toy on paper (worksheet)", fixed=15),
    Part(
        'run "Three neurons, by hand" and "Why neither half is enough" of 02, read the rest',
        "02_matrix_condition",
        without=("Three neurons, by hand", "Why neither half is enough", *AT_HOME),
        late="leave out the ridge and the token weights",
    ),
    Part("break", fixed=10),
    Part("03 together", "03_hybrid_granularity", without=AT_HOME, late='leave out "What a unit weighs"'),
    Part("exercise 1 of 03, in pairs", fixed=10, late="take home"),
    Part(
        "04 together: let the fit fail before you explain the guard",
        "04_mask_tuning",
        without=AT_HOME,
        late='leave out "Free all weights"',
    ),
    Part("05 together", "05_comp_end_to_end", without=AT_HOME, late="show the loop and the ablation alone"),
    Part("exercise 1 of 05, in pairs", fixed=10, late="take home"),
)
SHORT = (
    Part(
        "00: prune, and the cost in quality",
        "00_start_here",
        only=("Prune", "What it cost: quality"),
        late="leave out the figure of the layers",
    ),
    Part(
        "01 up to the proof",
        "01_layer_importance",
        without=("Can the proxy be repaired?", "Explore", *AT_HOME),
        late="leave out the attention maps",
    ),
    Part("the three-neuron toy on paper (worksheet)", fixed=15),
    Part(
        "02: a real layer, and the refit",
        "02_matrix_condition",
        only=("A real `down_proj`", "The refit"),
        late="show the figure with and without the refit alone",
    ),
    Part("04: the trap, and who did it", "04_mask_tuning", only=("The trap", "Who did it")),
    Part("the honest box of 00, and what to take home", fixed=5),
)
TIMETABLES = {"half a day": (240, HALF_DAY), "ninety minutes": (90, SHORT)}  # minutes at most
OPTIONAL = (
    "02b_metrics_on_trial",
    "06_your_own_model",
    "07_comp_vs_baselines",
    "08_on_device",
    "09_scale",
    "10_after_pruning",
)


def starts(lengths: Sequence[float]) -> list[int]:
    """When each part starts, and when the last ends, in minutes: rounded each, so that roundings do not add up."""
    return [round(now / STEP) * STEP for now in accumulate(lengths, initial=0.0)]


def clock(minutes: int) -> str:
    """Hours and minutes.

    >>> clock(95)
    '1:35'
    """
    return f"{minutes // 60}:{minutes % 60:02d}"


def timetable(name: str) -> str:
    """A workshop as a Markdown table, with what to do when late. Raises SystemExit where it takes too long."""
    limit, parts = TIMETABLES[name]
    lengths = [part.minutes() for part in parts]
    if (total := sum(lengths)) > limit:
        sys.exit(
            f"expected at most {limit} minutes in {name}, counted {total:.0f}: leave out a part or a section"
        )
    rows, times = [["from", "minutes", "what", "when late"], ["---:", "---:", "---", "---"]], starts(lengths)
    for part, (start, end) in zip(parts, pairwise(times), strict=True):
        rows.append([clock(start), str(end - start), part.what, part.late])
    rows.append([clock(times[-1]), "", f"end: {total:.0f} minutes counted", ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def optional() -> str:
    """What is in neither timetable, with its minutes."""
    parts = (f"[{lesson.split('_')[0]}]({lesson}.ipynb) ({claimed(lesson)})" for lesson in OPTIONAL)
    return f"Optional, each with its minutes: {', '.join(parts)}."


def between_marks(text: str, name: str, new: str) -> str:
    """The text with `new` between the marks of that name. Raises SystemExit where there are none."""
    begin, end = f"<!-- {name}, by notebooks/teaching/minutes.py -->", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"expected the lines {begin} and {end} once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}"


def with_minutes(text: str) -> str:
    """The table of lessons with the claimed minutes in its last column."""
    pattern = re.compile(r"^(\| \[[^]]*\]\(\.\./notebooks/(\w+)\.ipynb\) \|.*\| )\d+ \|$", re.MULTILINE)
    return pattern.sub(lambda match: f"{match[1]}{claimed(match[2])} |", text)


def wanted() -> dict[Path, str]:
    """What the list of lessons and TEACHING should say."""
    teaching = TEACHING.read_text("utf-8")
    for name in TIMETABLES:
        teaching = between_marks(teaching, name, timetable(name))
    teaching = between_marks(teaching, "optional lessons", optional())
    return {LIST: with_minutes(LIST.read_text("utf-8")), TEACHING: teaching}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description="Write the minutes of the lessons into docs/lessons.md and TEACHING."
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what is out of date")
    options = parser.parse_args(arguments)
    stale = False
    for path, text in wanted().items():
        old = path.read_text("utf-8")
        for line in difflib.unified_diff(
            old.splitlines(), text.splitlines(), path.name, path.name, n=0, lineterm=""
        ):
            print(line)
        stale |= old != text
        if not options.check and old != text:
            path.write_text(text, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
