"""The teaching kit: minutes that add up, checkpoints that are there, a worksheet that agrees, and slides."""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from teaching import minutes, slides, worksheet

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
TEACHING = (NOTEBOOKS / "TEACHING.md").read_text("utf-8")
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


slides.formula = functools.cache(slides.formula)  # the same formulas are set in several tests


def rows_of(text, column):
    """The rows, as lists of cells, of the first table in Markdown whose first column has that title."""
    lines = text.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith(f"| {column} |"))
    rows = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


# --- minutes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), [("half a day", 240), ("ninety minutes", 90)])
def test_a_timetable_adds_up(name, limit):
    """Each part begins where the one before ends, has the minutes counted for it, and all parts fit in."""
    rows = rows_of(TEACHING.split(f"<!-- {name}")[1], "from")
    _, parts = minutes.TIMETABLES[name]
    end = 0  # of the part before, in minutes
    for (start, length, title, _), part in zip(rows[:-1], parts, strict=True):
        assert start == minutes.clock(end), f"{title!r}: the parts before it take {end} minutes"
        rounding_error = abs(int(length) - part.minutes())
        assert rounding_error <= minutes.ROUNDING, "run python notebooks/teaching/minutes.py"
        end += int(length)
    assert rows[-1][0] == minutes.clock(end)
    assert end <= limit
    assert sum(part.minutes() for part in parts) <= limit


def test_the_half_day_has_the_whole_core():
    lessons = [part.lesson for part in minutes.HALF_DAY if part.lesson]
    assert [lesson[:3] for lesson in lessons] == ["00_", "01_", "02_", "03_", "04_", "05_"]
    assert not any(part.only for part in minutes.HALF_DAY)


FIRST_CELL = """\
# A

**Takes** about 9 minutes, of which the machine computes for 2.

## 1 · One

A [b](c)."""
SECOND_CELL = """\
## Two

**Predict.** So?

<details>`Yes`</details>

$$x$$

| a |
|---|
| 1 |

### Three"""
CELLS = [  # as they stand in the file of a notebook
    {"cell_type": "markdown", "source": FIRST_CELL, "metadata": {}},
    {"cell_type": "code", "source": "x = 1\n\ny = 2", "metadata": {}},
    {"cell_type": "markdown", "source": SECOND_CELL, "metadata": {}},
    {"cell_type": "code", "source": "rows = []\ntable(rows)", "metadata": {}},
]


def test_the_count_by_hand():
    """Words, lines, a table in the prose, one by a cell, a prediction, a formula, the machine's minutes."""
    assert minutes.word_count(CELLS) == 20
    assert minutes.code_lines(CELLS) == 4
    assert minutes.table_count(CELLS) == 2
    assert minutes.prediction_count(CELLS) == 1
    assert minutes.claimed_minutes(CELLS) == 9
    assert minutes.counted_minutes(CELLS) == pytest.approx(20 / 150 + 4 / 10 + 3 * 1 + 40 / 60 + 2)
    assert list(minutes.sections(CELLS)) == ["", "One", "Two", "Three"]


def test_a_figure_a_formula_in_a_line_and_a_function_to_write_take_time():
    prose = {"cell_type": "markdown", "source": "**Write** (4 minutes). Give $x$.", "metadata": {}}
    written = {"cell_type": "code", "source": "def f(x):\n    return x", "metadata": {"tags": ["write"]}}
    figures = {"cell_type": "code", "source": "show(plot(a))\nplay(b)", "metadata": {"tags": ["check"]}}
    assert minutes.formula_seconds(prose["source"]) == 5
    assert minutes.reading_minutes([prose]) == pytest.approx(3 / 150 + 4 + 5 / 60)
    assert minutes.reading_minutes([written]) == 0
    assert minutes.reading_minutes([figures]) == 2


@pytest.mark.parametrize(("heading", "expected"), [("Quiz", 5), ("Your turn", 10)])
def test_quiz_and_your_turn_take_fixed_minutes(heading, expected):
    cells = [{"cell_type": "markdown", "source": f"## {heading}\n\nWhy? Because.", "metadata": {}}]
    assert minutes.reading_minutes(cells) == expected


def test_talk_comes_on_top():
    name = "00_start_here"
    silent, loud = (minutes.Part("00", name, talk=talk).minutes() for talk in (False, True))
    assert loud - silent == pytest.approx(minutes.MINUTES_OF_TALK)


def test_sections_lose_no_words_and_no_lines():
    sections = minutes.sections(CELLS)
    assert sum(map(minutes.word_count, sections.values())) == 20
    assert minutes.code_lines(sections["One"]) == 2
    assert minutes.code_lines(sections["Three"]) == 2


def test_a_part_of_a_lesson_takes_less_than_all_of_it():
    name = "00_start_here"
    lesson_minutes = minutes.Part("all of 00", name).minutes()
    assert lesson_minutes == pytest.approx(minutes.counted_minutes(minutes.cells_of(name)))
    assert minutes.Part("a part", name, only=("Prune",)).minutes() < lesson_minutes
    assert minutes.Part("a part", name, without=("Prune",)).minutes() < lesson_minutes


def test_what_does_not_fit_is_refused(monkeypatch):
    with pytest.raises(SystemExit, match="expected headings of 00_start_here.ipynb, got Prun"):
        minutes.Part("a part", "00_start_here", only=("Prun",)).minutes()
    parts = (minutes.Part("all of 00", "00_start_here"),)
    monkeypatch.setitem(minutes.TIMETABLES, "ninety minutes", (20, parts))
    with pytest.raises(SystemExit, match="expected at most 20 minutes in ninety minutes, counted"):
        minutes.timetable("ninety minutes")


def test_the_list_of_lessons_and_teaching_are_what_the_script_writes(capsys):
    code = minutes.main(["--check"])
    assert code == 0, f"run python notebooks/teaching/minutes.py\n{capsys.readouterr().out}"


# --- what a teacher reads -----------------------------------------------------------------------------------


def rows_of_figures(lesson):
    """(number of a figure, where to look, what it means) for each figure of a lesson in TEACHING.

    A core lesson has a table of its own; the optional lessons share one, with the lesson before the number.
    """
    heading = f"### {lesson} · "
    if heading in TEACHING:
        rows = rows_of(TEACHING.split(heading)[1], "figure")
        return [(title.split()[0], look, meaning) for title, look, meaning in rows]
    rows = rows_of(TEACHING.split("### Optional lessons")[1], "figure")
    return [
        (title.split()[2], look, meaning) for title, look, meaning in rows if title.startswith(f"{lesson} · ")
    ]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_figure_of_a_lesson_has_two_sentences(path):
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "<img" in output.get("data", {}).get("text/html", "")]
    rows = rows_of_figures(path.stem.split("_")[0])
    assert [number for number, _, _ in rows] == [str(number) for number in range(1, len(figures) + 1)]
    for _, look, meaning in rows:
        assert look[-1] in ".?"
        assert meaning[-1] in ".?"


def test_checkpoints_are_in_the_lessons():
    rows = rows_of(TEACHING, "lesson")
    assert {lesson for lesson, _, _ in rows} == {"00", "01", "02", "03", "04", "05"}
    assert len(rows) >= 10
    for lesson, checkpoint, line in rows:
        [path] = NOTEBOOKS.glob(f"{lesson}_*.ipynb")
        source = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
        assert line.strip("`") in source, f"TEACHING: {path.stem} does not show {line} ({checkpoint})"


# --- the worksheet ------------------------------------------------------------------------------------------


def test_the_worksheet_is_the_toy_of_the_lesson():
    """Both have the same X and W."""
    cells = nbformat.read(NOTEBOOKS / "02_matrix_condition.ipynb", 4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    [source] = [source for source in sources if re.search(r"^X = torch.tensor", source, re.MULTILINE)]
    lines = [line for line in source.splitlines() if re.match(r"[XW] = torch", line)]
    namespace = {"torch": torch}
    exec("\n".join(lines), namespace)
    assert namespace["X"].tolist() == [list(row) for row in worksheet.X]
    assert namespace["W"].tolist() == [list(row) for row in worksheet.W]


@pytest.mark.parametrize("loudness", [1.0, 10.0])
def test_the_answers_are_what_brute_force_finds(loudness):
    x = np.array(worksheet.X) * np.array([[loudness], [loudness], [1.0]])
    w = np.array(worksheet.W)
    contributions = np.stack([np.outer(x[:, i], w[i]).ravel() for i in range(3)])
    toy = worksheet.toy(loudness)
    np.testing.assert_allclose(toy.gram, contributions @ contributions.T)
    for i in range(3):
        rest = np.delete(contributions, i, axis=0).T
        factors = np.linalg.lstsq(rest, contributions[i], rcond=None)[0]
        error = ((contributions[i] - rest @ factors) ** 2).sum()
        assert toy.cost[i] == pytest.approx(error)
        assert toy.condition[i] == pytest.approx(toy.gram[i, i] / error)
    turned_up = (toy.factor - 1) * contributions[1]
    assert toy.error == pytest.approx(((contributions[0] - turned_up) ** 2).sum())


def test_the_worksheet_is_a_pdf_of_two_pages_and_the_same_bytes(tmp_path):
    first = worksheet.write(tmp_path / "a.pdf").read_bytes()
    second = worksheet.write(tmp_path / "b.pdf").read_bytes()
    assert first.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", first)) == 2
    assert first == second


# --- slides -------------------------------------------------------------------------------------------------

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def picture(alt):
    page = f'<img alt="{alt}" src="{PIXEL}"/>'
    return [new_output("display_data", {"text/html": page, "text/plain": alt})]


TITLE_CELL = """\
# 01 · Cuts

**You will be able to**

- cut $x_i$;
- measure.

**Takes** about 3 minutes."""
DERIVATION_CELL = r"""## 2 · Cost

**Derivation.** See [there](a.ipynb).

$$s = \frac{1}{p}$$

**Predict.** Which?

<details><summary>Answer</summary>

The first. Not the last.

</details>"""


def lesson():
    """A small lesson with one of each kind."""
    return new_notebook(
        cells=[
            new_markdown_cell(TITLE_CELL),
            new_code_cell("show(a)", outputs=picture("A drawing of a block. More.")),
            new_markdown_cell(DERIVATION_CELL),
            new_code_cell("show(b)", outputs=picture("Bars of costs. More.")),
            new_markdown_cell("## Quiz\n\n$$x^2 + y^2 + z^2 + u^2 + v^2$$\n\n1. Why?"),
            new_markdown_cell("## Key takeaways\n\n- Measure it.\n\n**Next:** [02](b.ipynb)"),
        ]
    )


def test_slides_of_a_lesson_are_its_parts_in_order():
    lesson_slides = list(slides.lesson_slides(lesson()))
    kinds = [slide.kind for slide in lesson_slides]
    assert kinds == ["title", "", "derivation", "question", "", "takeaways"]
    title, drawing, derivation, question, figure, takeaways = lesson_slides
    assert title.title == "01 · Cuts"
    assert "measure." in title.body
    assert "Takes" not in title.body
    assert "A drawing of a block." in drawing.body
    assert PIXEL in drawing.body
    assert derivation.title == "Cost"
    assert 'class="display"' in derivation.body
    assert "Which?" not in derivation.body
    assert "Which?" in question.body
    assert "The first" not in question.body  # the answer comes with the figure
    assert "<figcaption>" in figure.body
    assert "The first." in figure.body
    assert "Not the last" not in figure.body
    assert "Measure it." in takeaways.body
    assert "Next" not in takeaways.body
    assert not any("<a " in slide.body for slide in lesson_slides)


def test_a_formula_is_drawn_and_keeps_its_source():
    svg = slides.formula(r"\lVert Y\rVert^2 \le \tfrac12\,\text{the error}")
    assert svg.startswith("<svg")
    assert r'aria-label="\lVert Y\rVert^2 \le' in svg
    assert "M" in svg
    with pytest.raises(ValueError):
        slides.formula(r"\nosuchthing{x}")
    assert slides.math(r"\nosuchthing{x}", display=False) == r"<code>\nosuchthing{x}</code>"


def formulas_of(name):
    """The formulas in the prose of a lesson, one a line."""
    formulas = []
    for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells:
        if cell.cell_type != "markdown":
            continue
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
        for match in slides.MATH.finditer(prose):
            displayed, inline = match.groups()
            formulas += slides.lines(displayed) if displayed else [inline]
    return formulas


@pytest.mark.parametrize("name", slides.CORE)
def test_every_formula_of_the_core_lessons_can_be_set(name):
    failed = []
    for formula in formulas_of(name):
        try:
            slides.formula(formula)
        except ValueError:
            failed.append(formula)
    assert not failed, "add to REPLACEMENTS in slides.py what matplotlib should set instead"


class Links(HTMLParser):
    """Collects what a page would fetch or lead to, and the alt text of each image."""

    def __init__(self, text):
        super().__init__()
        self.targets = []
        self.alts = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.targets += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.alts.append(attributes.get("alt") or "")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of all core lessons."""
    return slides.write(tmp_path_factory.mktemp("slides")).read_text("utf-8")


def test_the_page_fetches_nothing(page):
    assert all(target.startswith(("data:image/", "#")) for target in Links(page).targets)
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page


def test_the_page_has_all_pictures_of_all_lessons(page):
    alts = Links(page).alts
    assert all(len(alt.split()) >= 4 for alt in alts)
    pictures = []  # number of them in each lesson
    for name in slides.CORE:
        cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
        pictures.append(sum(slides.image(cell) is not None for cell in cells))
    assert len(alts) == sum(pictures)
    assert min(pictures) >= 2
    assert page.count('class="takeaways"') == page.count('class="derivation"') == len(slides.CORE)


def test_the_contents_lead_to_the_title_of_each_lesson(page):
    numbers = [int(target[1:]) for target in Links(page).targets if target.startswith("#")]
    kinds = re.findall(r'<section class="(\w*)"', page)
    assert [kinds[number - 1] for number in numbers] == ["title"] * len(slides.CORE)
