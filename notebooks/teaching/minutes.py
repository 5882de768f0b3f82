"""Minutes that add up: `python notebooks/teaching/minutes.py [--check]`

The count is that of a slow reader: one minute for 150 words, one for 10 visible lines of code, 40 seconds for
a displayed formula, 5 for one in a line, and one minute for each figure, each table and each prediction. A
function that she writes takes the minutes that the text above it says, the quiz 5, and "Your turn" 10. What
the machine computes comes on top; the first cell of a lesson says how long that takes. The first cell also
claims the minutes of the lesson, and a test compares this claim with the count. A section whose heading ends
with "(optional)" is not in the count; the first cell claims its minutes apart.

This script writes the claims into docs/lessons.md, and the two timetables and the minutes of the teacher's
preparation into TEACHING. With --check it writes nothing: it prints what is out of date, and the exit code is
1 if anything is.
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
LESSON_LIST = ROOT / "docs" / "lessons.md"
TEACHING = ROOT / "notebooks" / "TEACHING.md"
WORDS_PER_MINUTE = 150
LINES_PER_MINUTE = 10
SECONDS_TO_LOOK = 60  # at each figure and each table
SECONDS_TO_PREDICT = 60
SECONDS_OF_DISPLAYED_FORMULA = 40
SECONDS_OF_INLINE_FORMULA = 5
FIXED_MINUTES = {"Quiz": 5, "Your turn": 10}  # of the sections with these headings
MINUTES_OF_TALK = 10  # of the room, for each lesson that is taught together
ROUNDING = 5  # minutes: nobody reads the clock of a classroom more finely
MARK_OF_OPTIONAL = "(optional)"  # at the end of a heading
FOLDED_TAGS = {"check", "hide-input"}  # cells with such a tag show no code
Cell = Mapping[str, Any]


# --- the count ----------------------------------------------------------------------------------------------


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def is_visible_code(cell: Cell) -> bool:
    tags = set(cell["metadata"].get("tags", []))
    return cell["cell_type"] == "code" and not tags & FOLDED_TAGS


def lines_of(cell: Cell) -> int:
    """Lines of a cell that are not empty."""
    return sum(bool(line.strip()) for line in source(cell).splitlines())


def words_of(text: str) -> int:
    """Number of words in Markdown.

    Blocks of code, formulas, comments and tables do not count; `x` is one word.

    >>> words_of("The **price** of `w_i` is $s_i$.")
    5
    """
    text = re.sub(r"```.*?```|\$\$.*?\$\$|<!--.*?-->", " ", text, flags=re.DOTALL)
    text = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("|"))
    text = re.sub(r"\$[^$]*\$", " ", text)
    text = re.sub(r"`[^`]*`|<[^>]+>|!\[[^\]]*\]\([^)]*\)", " x ", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return len(re.findall(r"[A-Za-z][A-Za-z'-]*", text))


def word_count(cells: Sequence[Cell]) -> int:
    """Words of the prose. The folded answers count: a slow reader opens them all."""
    return sum(words_of(source(cell)) for cell in cells if cell["cell_type"] == "markdown")


def code_lines(cells: Sequence[Cell]) -> int:
    """Visible lines of code that are read; a function that she writes has minutes of its own."""
    return sum(lines_of(cell) for cell in cells if is_visible_code(cell) and not is_to_write(cell))


def is_to_write(cell: Cell) -> bool:
    return "write" in cell["metadata"].get("tags", [])


def formula_seconds(text: str) -> float:
    """Seconds for the formulas of Markdown: those on lines of their own, and those in a line.

    >>> formula_seconds("Energy $G_{ii}$, and $$G = C$$")
    45
    """
    text = re.sub(r"```.*?```|`[^`]*`", " ", text, flags=re.DOTALL)
    displayed = len(re.findall(r"\$\$.+?\$\$", text, re.DOTALL))
    text = re.sub(r"\$\$.+?\$\$", " ", text, flags=re.DOTALL)
    in_lines = len(re.findall(r"\$[^$]+\$", text))
    return displayed * SECONDS_OF_DISPLAYED_FORMULA + in_lines * SECONDS_OF_INLINE_FORMULA


def figure_count(cells: Sequence[Cell]) -> int:
    """Number of figures that the code cells show: drawings, animations and views to explore are some, too."""
    pattern = r"\b(?:show|play|drawing|[A-Z]\w*(?:Explorer|Planner|Box)|Planner)\("
    return sum(len(re.findall(pattern, source(cell))) for cell in cells if cell["cell_type"] == "code")


def writing_minutes(cells: Sequence[Cell]) -> int:
    """Minutes for the functions that she writes, as the text above each says: "**Write** (4 minutes)."."""
    text = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    return sum(map(int, re.findall(r"\*\*Write\*\* \((\d+) minutes?\)", text)))


def table_count(cells: Sequence[Cell]) -> int:
    """Number of tables: those in the prose, and those that a code cell shows."""
    patterns = {"markdown": r"^\|[ :|-]+\|$", "code": r"^table\("}
    return sum(len(re.findall(patterns[cell["cell_type"]], source(cell), re.MULTILINE)) for cell in cells)


def is_prediction(cell: Cell) -> bool:
    """Whether a cell asks for a prediction and holds the folded answer to it."""
    return "**Predict" in source(cell) and "<details>" in source(cell)


def prediction_count(cells: Sequence[Cell]) -> int:
    return sum(map(is_prediction, cells))


def reading_minutes(cells: Sequence[Cell]) -> float:
    """Minutes of a slow reader, without what the machine computes; some sections take fixed minutes."""
    minutes: float = 0
    for heading, section in sections(cells).items():
        minutes += FIXED_MINUTES.get(heading) or _minutes_of_section(section)
    return minutes


def _minutes_of_section(cells: Sequence[Cell]) -> float:
    seconds = SECONDS_TO_LOOK * (figure_count(cells) + table_count(cells))
    seconds += SECONDS_TO_PREDICT * prediction_count(cells)
    seconds += sum(formula_seconds(source(cell)) for cell in cells if cell["cell_type"] == "markdown")
    reading = word_count(cells) / WORDS_PER_MINUTE + code_lines(cells) / LINES_PER_MINUTE
    return reading + seconds / 60 + writing_minutes(cells)


def number_in_first_cell(cells: Sequence[Cell], pattern: str) -> int | None:
    """The number in the one group of `pattern`, searched in the first cell; None where nothing matches."""
    match = re.search(pattern, source(cells[0]))
    return int(match[1]) if match else None


def claimed_minutes(cells: Sequence[Cell]) -> int | None:
    return number_in_first_cell(cells, r"\*\*Takes\*\* about (\d+) minutes")


def machine_minutes(cells: Sequence[Cell]) -> int:
    return number_in_first_cell(cells, r"computes for (?:about )?(\d+)") or 0


def claimed_optional_minutes(cells: Sequence[Cell]) -> int:
    return number_in_first_cell(cells, r"optional and takes (\d+) more") or 0


def optional_minutes(cells: Sequence[Cell]) -> float:
    """Minutes of a slow reader for the optional sections of a lesson."""
    minutes: float = 0
    for heading, section in sections(cells).items():
        if heading.endswith(MARK_OF_OPTIONAL):
            minutes += reading_minutes(section)
    return minutes


def counted_minutes(cells: Sequence[Cell]) -> float:
    """Minutes of a lesson without its optional sections: a slow reader's, and the machine's."""
    return reading_minutes(cells) - optional_minutes(cells) + machine_minutes(cells)


def sections(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Heading -> its cells. Prose is cut at each heading; what comes before the first has the name ""."""
    cells_by_heading: dict[str, list[Cell]] = {"": []}
    for heading, cell in _pieces(cells):
        cells_by_heading.setdefault(heading, []).append(cell)
    return cells_by_heading


def _pieces(cells: Sequence[Cell]) -> Iterator[tuple[str, Cell]]:
    """(heading above it, cell or piece of a cell) in the order of the lesson."""
    heading = ""
    for cell in cells:
        if cell["cell_type"] == "code":
            yield heading, cell
            continue
        for piece in re.split(r"^(?=##+ )", source(cell), flags=re.MULTILINE):
            match = re.match(r"##+ (?:\d+ · )?(.*)", piece)
            if match:
                heading = match[1]
            yield heading, {**cell, "source": piece}


def cells_of(lesson: str) -> list[Cell]:
    text = (ROOT / "notebooks" / f"{lesson}.ipynb").read_text("utf-8")
    return json.loads(text)["cells"]


def claimed_minutes_of(lesson: str) -> int:
    """The minutes that a lesson's first cell claims. Raises SystemExit where it claims none."""
    minutes = claimed_minutes(cells_of(lesson))
    if minutes is None:
        sys.exit(f"expected '**Takes** about N minutes' in the first cell of {lesson}.ipynb")
    return minutes


# --- the timetables -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of a workshop: a lesson or some of its sections, whose minutes are counted, or a fixed time."""

    title: str
    lesson: str = ""  # name of its notebook; where it is empty, the part takes `fixed` minutes
    fixed: int = 0
    only: tuple[str, ...] = ()  # headings that are taken; where there are none, all are
    without: tuple[str, ...] = ()  # headings that are left out
    talk: bool = False  # whether the room talks about it, for MINUTES_OF_TALK
    when_late: str = "keep"  # what the teacher does with this part when time is short

    def minutes(self) -> float:
        """The counted or fixed minutes. Raises SystemExit where a heading is not in the lesson."""
        if not self.lesson:
            return self.fixed
        cells = cells_of(self.lesson)
        cells_by_heading = sections(cells)
        unknown = {*self.only, *self.without} - set(cells_by_heading)
        if unknown:
            names = ", ".join(sorted(unknown))
            sys.exit(f"expected headings of {self.lesson}.ipynb, got {names}: look them up there")
        minutes: float = machine_minutes(cells) + (MINUTES_OF_TALK if self.talk else 0)
        for heading, section in cells_by_heading.items():
            if self._takes(heading):
                minutes += reading_minutes(section)
        return minutes

    def _takes(self, heading: str) -> bool:
        """Whether the section is taught. What comes before the first heading is always among `only`."""
        if heading in self.without:
            return False
        return not self.only or heading in ("", *self.only)


AT_HOME = ("Your turn", "Quiz")
HALF_DAY = (  # what a part leaves out does not fit into the day: it is optional, and named in the table
    Part(
        "00 together",
        "00_start_here",
        without=("Is the error right?", "Size and speed", "Which COMP?", "The first trial", *AT_HOME),
        talk=True,
        when_late="leave out the figure of the layers",
    ),
    Part(
        "01 together",
        "01_layer_importance",
        without=("Where the harm arises", "Does it pay to ask the model?", *AT_HOME),
        talk=True,
        when_late='leave out the attention in "Why layer 11?"',
    ),
    Part(
        "02 together: the toy by hand first",
        "02_matrix_condition",
        without=("Which neuron does each rule remove?", "The trial: on unseen text", *AT_HOME),
        talk=True,
        when_late='leave out "A real `down_proj`"',
    ),
    Part("break", fixed=10),
    Part(
        "03 together",
        "03_hybrid_granularity",
        without=("The honest box: another model", *AT_HOME),
        talk=True,
        when_late="use ours of the greedy allocation",
    ),
    Part(
        "04 together: let the fit fail before you explain the guard",
        "04_mask_tuning",
        without=("Token weights", "The ridge", *AT_HOME),
        talk=True,
        when_late='leave out "Which layer, which neurons"',
    ),
    Part(
        "05 together",
        "05_comp_end_to_end",
        without=("The same for KV groups (optional)", "Quiz"),
        talk=True,
        when_late="show the loop and the verdict alone",
    ),
)
SHORT = (
    Part(
        "00: prune, and the cost in quality",
        "00_start_here",
        only=("Prune", "What it cost: quality"),
        when_late="leave out the figure of the layers",
    ),
    Part(
        "01 up to the proof",
        "01_layer_importance",
        without=("Does it pay to ask the model?", *AT_HOME),
        when_late="leave out the attention maps",
    ),
    Part("the three-neuron toy on paper (worksheet)", fixed=15),
    Part(
        "02: a real layer, and the refit",
        "02_matrix_condition",
        only=("A real `down_proj`", "The refit"),
        when_late="leave out the brute force",
    ),
    Part(
        "04: the trap, and who did it",
        "04_mask_tuning",
        only=("Two random draws", "Which layer, which neurons"),
    ),
    Part("the honest box of 00, and what to take home", fixed=5),
)
TIMETABLES = {"half a day": (240, HALF_DAY), "ninety minutes": (90, SHORT)}  # minutes at most
CORE_LESSONS = tuple(part.lesson for part in HALF_DAY if part.lesson)
PREPARATION = (
    *(Part(f"read and run {lesson[:2]}, with the folded answers", lesson) for lesson in CORE_LESSONS),
    Part("the worksheet", fixed=15),
    Part("ask for the systems, choose the Python, send the invitation", fixed=30),
    Part("for each system: build the kit, install it offline, run 00", fixed=30),
    Part("copy the kits to two sticks, print the worksheet, look through the slides", fixed=30),
    Part("on the day, before it begins", fixed=15),
)
OPTIONAL = (
    "02b_metrics_on_trial",
    "06_your_own_model",
    "07_comp_vs_baselines",
    "08_on_device",
    "09_scale",
    "10_after_pruning",
)


def starts(lengths: Sequence[float]) -> list[int]:
    """When each part starts, and when the last one ends, in minutes.

    Each time is rounded by itself, so that roundings do not add up.
    """
    return [round(start / ROUNDING) * ROUNDING for start in accumulate(lengths, initial=0.0)]


def clock(minutes: int) -> str:
    """Hours and minutes.

    >>> clock(95)
    '1:35'
    """
    return f"{minutes // 60}:{minutes % 60:02d}"


def timetable(name: str) -> str:
    """A workshop as a Markdown table, with what to do when late. Raises SystemExit if it takes too long."""
    limit, parts = TIMETABLES[name]
    lengths = [part.minutes() for part in parts]
    total = sum(lengths)
    if total > limit:
        sys.exit(
            f"expected at most {limit} minutes in {name}, counted {total:.0f}: leave out a part or a section"
        )
    times = starts(lengths)
    rows = [["from", "minutes", "what", "when late"], ["---:", "---:", "---", "---"]]
    for part, (start, end) in zip(parts, pairwise(times), strict=True):
        rows.append([clock(start), str(end - start), part.title, part.when_late])
    rows.append([clock(times[-1]), "", f"end: {total:.0f} minutes counted", ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def preparation() -> str:
    """What the teacher of the half day does before it, as a Markdown table with its sum."""
    rows = [["minutes", "what"], ["---:", "---"]]
    rows += [[f"{part.minutes():.0f}", part.title] for part in PREPARATION]
    hours = sum(part.minutes() for part in PREPARATION) / 60
    rows.append([f"{hours:.1f} hours", "all of it, the first time, with one system"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def optional_lessons() -> str:
    """The sentence on the lessons that are in neither timetable, with their minutes."""
    links = []
    for lesson in OPTIONAL:
        number = lesson.split("_")[0]
        links.append(f"[{number}]({lesson}.ipynb) ({claimed_minutes_of(lesson)})")
    return f"Optional, each with its minutes: {', '.join(links)}."


def between_marks(text: str, name: str, new: str) -> str:
    """The text with `new` between the marks of that name. Raises SystemExit where there are none."""
    begin = f"<!-- {name}, by notebooks/teaching/minutes.py -->"
    end = f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"expected the lines {begin} and {end} once each")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{new}\n{end}{after}"


def with_minutes(text: str) -> str:
    """The table of lessons with the claimed minutes in its last column."""
    pattern = re.compile(r"^(\| \[[^]]*\]\(\.\./notebooks/(\w+)\.ipynb\) \|.*\| )\d+ \|$", re.MULTILINE)
    return pattern.sub(lambda match: f"{match[1]}{claimed_minutes_of(match[2])} |", text)


def updated_pages() -> dict[Path, str]:
    """Path -> what this page should say, for the list of lessons and for TEACHING."""
    teaching = TEACHING.read_text("utf-8")
    for name in TIMETABLES:
        teaching = between_marks(teaching, name, timetable(name))
    teaching = between_marks(teaching, "optional lessons", optional_lessons())
    teaching = between_marks(teaching, "preparation", preparation())
    return {LESSON_LIST: with_minutes(LESSON_LIST.read_text("utf-8")), TEACHING: teaching}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description="Write the minutes of the lessons into docs/lessons.md and TEACHING."
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what is out of date")
    options = parser.parse_args(arguments)
    stale = False
    for path, new in updated_pages().items():
        old = path.read_text("utf-8")
        if old == new:
            continue
        stale = True
        difference = difflib.unified_diff(
            old.splitlines(), new.splitlines(), path.name, path.name, n=0, lineterm=""
        )
        print(*difference, sep="\n")
        if not options.check:
            path.write_text(new, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
