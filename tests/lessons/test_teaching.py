"""The teaching kit: minutes that add up, checkpoints that are there, a worksheet that agrees, slides on their own."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
TEACHING = (NOTEBOOKS / "TEACHING.md").read_text("utf-8")
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def script(name):
    spec = importlib.util.spec_from_file_location(name, NOTEBOOKS / "teaching" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks there
    spec.loader.exec_module(module)
    return module


minutes, worksheet, slides = (script(name) for name in ("minutes", "worksheet", "slides"))
slides.formula = functools.cache(slides.formula)  # the same formulas are set in several tests


def rows_of(text, first):
    """Cells of the rows of the first table whose head begins with `first`."""
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


# --- minutes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), [("half a day", 240), ("ninety minutes", 90)])
def test_a_timetable_adds_up(name, limit):
    """Each part begins where the one before it ends, has the minutes that are counted for it, and all fit in."""
    rows, now = rows_of(TEACHING.split(f"<!-- {name}")[1], "from"), 0
    _, parts = minutes.TIMETABLES[name]
    for (start, length, what, _), part in zip(rows[:-1], parts, strict=True):
        hours, rest = map(int, start.split(":"))
        assert 60 * hours + rest == now, f"{what!r} begins at {start}, the parts before it take {now} minutes"
        assert abs(int(length) - part.minutes()) <= minutes.ROUNDING, "run python notebooks/teaching/minutes.py"
        now += int(length)
    assert rows[-1][0] == minutes.clock(now) and now <= limit
    assert sum(part.minutes() for part in parts) <= limit


def test_the_half_day_has_the_whole_core():
    lessons = [part.lesson for part in minutes.HALF_DAY if part.lesson]
    assert [lesson[:3] for lesson in lessons] == ["00_", "01_", "02_", "03_", "04_", "05_"]
    assert not any(part.only for part in minutes.HALF_DAY)


CELLS = [
    {"cell_type": cell.cell_type, "source": cell.source, "metadata": {}}
    for cell in (
        new_markdown_cell(
            "# A\n\n**Takes** about 9 minutes, of which the machine computes for 2.\n\n## 1 · One\n\nA [b](c)."
        ),
        new_code_cell("x = 1\n\ny = 2"),
        new_markdown_cell(
            "## Two\n\n**Predict.** So?\n\n<details>`Yes`</details>\n\n$$x$$\n\n| a |\n|---|\n| 1 |\n\n### Three"
        ),
        new_code_cell("rows = []\ntable(rows)"),
    )
]


def test_the_count_by_hand():
    """Words, lines, a table in the prose and one by a cell, one prediction, two minutes of the machine."""
    assert (minutes.word_count(CELLS), minutes.code_lines(CELLS)) == (20, 4)
    assert (minutes.table_count(CELLS), minutes.prediction_count(CELLS), minutes.claimed_minutes(CELLS)) == (2, 1, 9)
    assert minutes.counted_minutes(CELLS) == pytest.approx(20 / 150 + 4 / 10 + 3 * 2 + 2)
    assert list(minutes.sections(CELLS)) == ["", "One", "Two", "Three"]
    assert minutes.word_count([cell for part in minutes.sections(CELLS).values() for cell in part]) == 20
    assert (
        minutes.code_lines(minutes.sections(CELLS)["One"])
        == minutes.code_lines(minutes.sections(CELLS)["Three"])
        == 2
    )


def test_what_does_not_fit_is_refused(monkeypatch):
    whole = minutes.Part("all of 00", "00_start_here")
    assert minutes.Part("a part", "00_start_here", only=("Prune",)).minutes() < whole.minutes()
    assert minutes.Part("a part", "00_start_here", without=("Prune",)).minutes() < whole.minutes()
    assert whole.minutes() == pytest.approx(minutes.counted_minutes(minutes.cells_of("00_start_here")))
    with pytest.raises(SystemExit, match="expected headings of 00_start_here.ipynb, got Prun"):
        minutes.Part("a part", "00_start_here", only=("Prun",)).minutes()
    monkeypatch.setitem(minutes.TIMETABLES, "ninety minutes", (20, (whole,)))
    with pytest.raises(SystemExit, match="expected at most 20 minutes in ninety minutes, counted"):
        minutes.timetable("ninety minutes")


def test_the_list_of_lessons_and_teaching_are_what_the_script_writes(capsys):
    assert minutes.main(["--check"]) == 0, (
        f"run python notebooks/teaching/minutes.py\n{capsys.readouterr().out}"
    )


# --- what a teacher reads ---------------------------------------------------------------------------------------------


def rows_of_figures(number):
    """The rows of TEACHING for the figures of a lesson: (number, where to look, what it means)."""
    if (own := f"### {number} · ") in TEACHING:
        return [(row[0].split()[0], *row[1:]) for row in rows_of(TEACHING.split(own)[1], "figure")]
    rows = rows_of(TEACHING.split("### Optional lessons")[1], "figure")
    return [(row[0].split()[2], *row[1:]) for row in rows if row[0].startswith(f"{number} · ")]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_figure_of_a_lesson_has_two_sentences(path):
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "<img" in output.get("data", {}).get("text/html", "")]
    rows = rows_of_figures(path.stem.split("_")[0])
    assert [row[0] for row in rows] == [str(place) for place in range(1, len(figures) + 1)]
    assert all(sentence[-1] in ".?" for _, look, means in rows for sentence in (look, means))


def test_checkpoints_are_in_the_lessons():
    rows = rows_of(TEACHING, "lesson")
    assert {row[0] for row in rows} == {"00", "01", "02", "03", "04", "05"} and len(rows) >= 10
    for number, what, shown in rows:
        [path] = NOTEBOOKS.glob(f"{number}_*.ipynb")
        words = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
        assert shown.strip("`") in words, f"TEACHING: {path.stem} does not show {shown} ({what})"


# --- the worksheet ----------------------------------------------------------------------------------------------------


def test_the_worksheet_is_the_toy_of_the_lesson():
    """Both have the same X and W, and what the sheet says is what brute force finds."""
    cells = nbformat.read(NOTEBOOKS / "02_matrix_condition.ipynb", 4).cells
    [source] = [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and re.search(r"^X = torch.tensor", cell.source, re.M)
    ]
    lines = [line for line in source.splitlines() if re.match(r"[XW] = torch", line)]
    space = {"torch": torch}
    exec("\n".join(lines), space)
    assert space["X"].tolist() == [list(row) for row in worksheet.X]
    assert space["W"].tolist() == [list(row) for row in worksheet.W]


@pytest.mark.parametrize("loud", [1.0, 10.0])
def test_the_answers_are_measured(loud):
    x, w = np.array(worksheet.X) * np.array([[loud], [loud], [1.0]]), np.array(worksheet.W)
    parts = np.stack([np.outer(x[:, i], w[i]).ravel() for i in range(3)])
    toy = worksheet.toy(loud)
    np.testing.assert_allclose(toy.gram, parts @ parts.T)
    for i in range(3):
        others = np.delete(parts, i, axis=0).T
        found = np.linalg.lstsq(others, parts[i], rcond=None)[0]
        left = ((parts[i] - others @ found) ** 2).sum()
        assert toy.cost[i] == pytest.approx(left) and toy.condition[i] == pytest.approx(toy.gram[i, i] / left)
    assert toy.error == pytest.approx(((parts[0] - (toy.factor - 1) * parts[1]) ** 2).sum())


def test_the_worksheet_is_a_pdf_of_two_pages_and_the_same_bytes(tmp_path):
    one, two = (worksheet.write(tmp_path / name).read_bytes() for name in ("a.pdf", "b.pdf"))
    assert one.startswith(b"%PDF") and one == two
    assert len(re.findall(rb"/Type /Page\b", one)) == 2


# --- slides -----------------------------------------------------------------------------------------------------------

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def shows(words):
    page = f'<img alt="{words}" src="{PIXEL}"/>'
    return [new_output("display_data", {"text/html": page, "text/plain": words})]


def lesson():
    """A small lesson with one of each kind."""
    fold = "<details><summary>Answer</summary>\n\nThe first. Not the last.\n\n</details>"
    return new_notebook(
        cells=[
            new_markdown_cell(
                "# 01 · Cuts\n\n**You will be able to**\n\n- cut $x_i$;\n- measure.\n\n**Takes** about 3 minutes."
            ),
            new_code_cell("show(a)", outputs=shows("A drawing of a block. More.")),
            new_markdown_cell(
                "## 2 · Cost\n\n**Derivation.** See [there](a.ipynb).\n\n$$s = \\frac{1}{p}$$\n\n"
                "**Predict.** Which?\n\n" + fold
            ),
            new_code_cell("show(b)", outputs=shows("Bars of costs. More.")),
            new_markdown_cell("## Quiz\n\n$$x^2 + y^2 + z^2 + u^2 + v^2$$\n\n1. Why?"),
            new_markdown_cell("## Key takeaways\n\n- Measure it.\n\n**Next:** [02](b.ipynb)"),
        ]
    )


def test_slides_of_a_lesson_are_its_parts_in_order():
    made = list(slides.lesson_slides(lesson()))
    assert [slide.kind for slide in made] == ["title", "", "derivation", "question", "", "takeaways"]
    title, drawn, derived, asked, figure, last = made
    assert title.title == "01 · Cuts" and "measure." in title.body and "Takes" not in title.body
    assert "A drawing of a block." in drawn.body and PIXEL in drawn.body
    assert derived.title == "Cost" and 'class="display"' in derived.body and "Which?" not in derived.body
    assert "Which?" in asked.body and "The first" not in asked.body  # the answer comes with the figure
    assert "<figcaption>" in figure.body and "The first." in figure.body and "Not the last" not in figure.body
    assert "Measure it." in last.body and "Next" not in last.body
    assert not any("<a " in slide.body for slide in made)


def test_a_formula_is_drawn_and_keeps_its_words():
    drawn = slides.formula(r"\lVert Y\rVert^2 \le \tfrac12\,\text{the error}")
    assert drawn.startswith("<svg") and r'aria-label="\lVert Y\rVert^2 \le' in drawn and "M" in drawn
    with pytest.raises(ValueError):
        slides.formula(r"\nosuchthing{x}")
    assert slides.math(r"\nosuchthing{x}", display=False) == r"<code>\nosuchthing{x}</code>"


@pytest.mark.parametrize("name", slides.CORE)
def test_every_formula_of_the_core_lessons_can_be_set(name):
    failed = []
    for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells:
        prose = (
            re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
            if cell.cell_type == "markdown"
            else ""
        )
        for match in slides.MATH.finditer(prose):
            for line in slides.lines(match[1]) if match[1] else [match[2]]:
                try:
                    slides.formula(line)
                except ValueError:
                    failed.append(line)
    assert not failed, "add to REPLACEMENTS in slides.py what matplotlib should set instead"


class Asking(HTMLParser):
    """What a page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.images = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.sources += [given[name] for name in ("src", "href") if name in given]
        if tag == "img":
            self.images.append(given.get("alt") or "")


def test_the_page_has_all_lessons_and_asks_for_nothing(tmp_path):
    page = slides.write(tmp_path / "slides").read_text("utf-8")
    asking = Asking(page)
    assert all(source.startswith(("data:image/", "#")) for source in asking.sources)
    assert not re.search(r"@import|url\(", page) and "default-src 'none'" in page
    assert all(len(words.split()) >= 4 for words in asking.images)
    pictures = {
        name: len(
            [cell for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells if slides.image(cell)]
        )
        for name in slides.CORE
    }
    assert len(asking.images) == sum(pictures.values()) and min(pictures.values()) >= 2
    assert page.count('class="takeaways"') == page.count('class="derivation"') == len(slides.CORE)
    places = [int(source[1:]) for source in asking.sources if source.startswith("#")]
    kinds = re.findall(r'<section class="(\w*)"', page)
    assert [kinds[place - 1] for place in places] == ["title"] * len(
        slides.CORE
    )  # the contents lead where they say
