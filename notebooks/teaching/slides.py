"""Slides of the core lessons: `python notebooks/teaching/slides.py build/slides`

One page of HTML is made from the notebooks as they are stored. It has of each lesson the aims, the drawing,
the derivation, the figures with a sentence each (a prediction that stands before a figure is a slide of its
own), and the takeaways. The page holds all that it shows and asks for nothing from outside; a policy in it
forbids the browser to. matplotlib sets the formulas, and a screen reader reads their source. The page obeys
arrow keys, space, Home and End, and it can be printed.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath
from nbconvert.filters.markdown import markdown2html
from nbformat import NotebookNode

from comp_lib.utils.errors import InputError
from comp_lib.utils.files import checked_new_file

FOLDER = Path(__file__).resolve().parents[1]
CORE = ("01_layer_importance", "02_matrix_condition", "03_hybrid_granularity", "04_mask_tuning")
DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL)
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$]+?)(?<!\s)\$", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*`$(])")
EM = 100  # units of a drawn formula to the size of the letters around it
MARGIN_ABOVE = 4.0  # around a drawn formula, in these units
MARGIN_BELOW = 2.0
CURVE_LETTERS = {  # matplotlib's codes for pieces of a curve -> the letters of SVG
    Curve.MOVETO: "M",
    Curve.LINETO: "L",
    Curve.CURVE3: "Q",
    Curve.CURVE4: "C",
    Curve.CLOSEPOLY: "Z",
}

# --- formulas -----------------------------------------------------------------------------------------------

REPLACEMENTS = (  # what matplotlib's own parser does not know: (pattern, what to write instead)
    (r"\\(?:big|Big|bigg|Bigg)[lr]?(?![a-zA-Z])", ""),
    (r"\\[lr]Vert(?![a-zA-Z])", r"\\Vert "),
    (r"\\[lr]vert(?![a-zA-Z])", "|"),
    (r"\\(?:left|right)(?![a-zA-Z])\s*\.?", ""),
    (r"\\[td]?frac\s*(\w)\s*(?=[\w{])", r"\\frac{\1}"),  # \frac12 and \frac1{n}
    (r"\\[td]?frac(\{\w\})\s*(\w)", r"\\frac\1{\2}"),
    (r"\\[td]frac", r"\\frac"),
    (r"\\([lg])e(?![a-zA-Z])", r"\\\1eq "),
    (r"\\(?:text|textrm|textbf|mbox|mathrm|operatorname)\*?\{([^{}]*)\}", lambda m: _upright(m[1])),
    (r"\\(math(?:bf|rm|cal|bb|it))\s+(\w)", r"\\\1{\2}"),
    (r"\\(?:lambda|kappa)(?=[A-Z])", lambda m: f"{m[0]} "),
    (r"\\boxed\{([^{}]*)\}", r"\1"),
    (r"\\(?:implies|Longrightarrow)(?![a-zA-Z])", r"\\Rightarrow "),
    (r"\\tr(?![a-zA-Z])", r"\\mathrm{tr}"),
    (r"\\diag(?![a-zA-Z])", r"\\mathrm{diag}"),
    (r"\\[hv]space\{[^{}]*\}|\\(?:display|text)style(?![a-zA-Z])|\\nolimits|\\limits", ""),
    (r"\\(?:argmin|arg\\min)(?![a-zA-Z])", r"\\mathrm{arg\\,min}"),
    (r"\\lbrace", r"\\{"),
    (r"\\rbrace", r"\\}"),
    (r"\\tag\{[^{}]*\}", ""),
)


def _upright(text: str) -> str:
    """LaTeX for words that are not slanted; a hyphen within a single word is set closer."""
    if " " in text:
        return r"\mathrm{" + text.replace(" ", r"\ ") + "}"
    return r"\mathrm{" + text.replace("-", r"\!-\!") + "}"


def _end_of_group(latex: str, start: int) -> int:
    """The index behind the group in braces that begins at `start`."""
    depth = 0
    for index in range(start, len(latex)):
        if latex[index] == "{":
            depth += 1
        elif latex[index] == "}":
            depth -= 1
        if depth == 0:
            return index + 1
    raise ValueError(f"expected as many closing braces as opening ones, got {latex!r}")


def _without_underbraces(latex: str) -> str:
    r"""The formula without each `\underbrace{}` and the words under it, but with the content of the brace."""
    command = r"\underbrace"
    while (start := latex.find(command + "{")) >= 0:
        opening = start + len(command)
        closed = _end_of_group(latex, opening)
        content = latex[opening + 1 : closed - 1]
        has_words_below = latex[closed : closed + 2] == "_{"
        end = _end_of_group(latex, closed + 1) if has_words_below else closed
        latex = latex[:start] + content + latex[end:]
    return latex


def plain(latex: str) -> str:
    """The formula in the part of LaTeX that matplotlib sets."""
    latex = _without_underbraces(" ".join(latex.split()))
    for pattern, replacement in REPLACEMENTS:
        latex = re.sub(pattern, replacement, latex)
    return latex


def lines(latex: str) -> list[str]:
    """A displayed formula line by line, without its alignment."""
    latex = re.sub(r"\\(?:begin|end)\{(?:aligned|align\*?|gathered|array|split)\}(?:\{[^{}]*\})?", "", latex)
    split = re.split(r"\\\\(?:\[[^]]*\])?", latex)
    # in LaTeX "&&" leaves room between two columns, and "&" none
    return [line.replace("&&", r" \quad ").replace("&", " ").strip() for line in split if line.strip()]


def formula(latex: str) -> str:
    """One line of LaTeX as a drawing in SVG. Raises ValueError for what matplotlib cannot set."""
    text = f"${plain(latex)}$"
    font = FontProperties(size=EM)
    with rc_context({"mathtext.fontset": "stix"}):
        width, height, depth, _, _ = MathTextParser("path").parse(text, dpi=72, prop=font)
        curve = TextPath((0, 0), text, size=EM, prop=font)
    width = max(width, 1.0)
    height += MARGIN_ABOVE  # above the line of writing
    depth += MARGIN_BELOW  # below it
    style = (
        f"width:{width / EM:.3f}em;height:{(height + depth) / EM:.3f}em;vertical-align:{-depth / EM:.3f}em"
    )
    box = f"0 {-height:.1f} {width:.1f} {height + depth:.1f}"
    label = html.escape(" ".join(latex.split()), quote=True)
    return (
        f'<svg role="img" aria-label="{label}" style="{style}" viewBox="{box}">'
        f'<path d="{svg_path(curve)}"/></svg>'
    )


def svg_path(curve: Curve) -> str:
    """A curve of matplotlib in SVG's letters and numbers; y grows downwards there."""
    pieces = []
    for points, code in curve.iter_segments(simplify=False, curves=True):
        letter = CURVE_LETTERS[code]
        if letter == "Z":  # closes the curve, and has no points in SVG
            pieces.append(letter)
        else:
            pairs = zip(points[::2], points[1::2], strict=True)
            pieces.append(letter + " ".join(f"{x:.1f} {-y:.1f}" for x, y in pairs))
    return "".join(pieces)


def math(latex: str, display: bool) -> str:
    """A formula in the text or on lines of its own. What matplotlib cannot set is shown as it is written."""
    try:
        if display:
            return "".join(f'<span class="display">{formula(line)}</span>' for line in lines(latex))
        return formula(latex)
    except ValueError:
        return f"<code>{html.escape(latex)}</code>"


def to_html(markdown: str) -> str:
    """Markdown with formulas as HTML; links become words, since there is nothing to go to."""
    markdown = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", markdown)
    formulas: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        formulas.append(math(match[1] or match[2], display=match[1] is not None))
        return f"@@{len(formulas) - 1}@@"

    pieces = re.split(r"(```.*?```|`[^`\n]*`)", markdown, flags=re.DOTALL)  # prose and code in turn
    pieces[::2] = [MATH.sub(placeholder, prose) for prose in pieces[::2]]
    page = markdown2html("".join(pieces))
    return re.sub(r"@@(\d+)@@", lambda match: formulas[int(match[1])], page)


# --- what a lesson holds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slide:
    """A heading, and HTML below it."""

    title: str
    body: str
    kind: str = ""


def unfolded(source: str) -> str:
    """What everybody reads of a cell: its source without what is folded away."""
    return DETAILS.sub("", source).strip()


def before_prediction(source: str) -> str:
    """What everybody reads of a cell before its prediction; all of it where there is none."""
    return re.split(r"\*\*Predict", unfolded(source))[0]


def question(cell: NotebookNode) -> str | None:
    """The prediction with which a cell of prose ends."""
    if cell.cell_type != "markdown":
        return None
    match = re.search(r"\*\*Predict\.?\*\*\.?(.*)", unfolded(cell.source), re.DOTALL)
    return match[1].strip() if match else None


def answer(source: str) -> str:
    """The last answer that is folded away in a cell; "" where there is none."""
    folded = DETAILS.findall(source)
    return folded[-1][1].strip() if folded else ""


def first_sentence(text: str) -> str:
    """The first sentence of the first paragraph that is no heading."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    paragraph = next((paragraph for paragraph in paragraphs if not paragraph.startswith("#")), "")
    return SENTENCE.split(" ".join(paragraph.split()))[0]


def image(cell: NotebookNode) -> str | None:
    """The HTML element of the picture that a code cell shows, with its alt text."""
    for output in cell.get("outputs", []):
        match = re.search(r"<img[^>]*>", str(output.get("data", {}).get("text/html", "")))
        if match and "data:image/" in match[0]:
            return match[0]
    return None


def alt_text(picture: str) -> str:
    match = re.search(r'alt="([^"]*)"', picture)
    return html.unescape(match[1]) if match else ""


def headings(notebook: NotebookNode) -> list[str]:
    """For each cell the heading above it, without marks and numbers."""
    headings_of_cells = []
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in unfolded(cell.source).splitlines():
                if re.match(r"#{1,3} ", line):
                    heading = re.sub(r"^#+ (?:\d+ · )?", "", line).strip()
        headings_of_cells.append(heading)
    return headings_of_cells


def derivation(notebook: NotebookNode) -> int | None:
    """Index of the cell that derives something: one that says so, or else that with the most mathematics."""

    def mathematics(index: int) -> int:
        """Number of letters in formulas."""
        return sum(len(match[0]) for match in MATH.finditer(unfolded(notebook.cells[index].source)))

    def rank(index: int) -> tuple[bool, int]:
        text = unfolded(notebook.cells[index].source)
        says_so = bool(re.search(r"derivation|\bproof\b|\bderive", text, re.IGNORECASE))
        amount = mathematics(index)
        return says_so and amount > 0, amount

    candidates = [
        index
        for index, cell in enumerate(notebook.cells[1:-1], 1)  # neither the title nor the takeaways
        if cell.cell_type == "markdown" and not re.match(r"## (Quiz|Your turn)", cell.source)
    ]
    best = max(candidates, key=rank, default=None)
    if best is None or mathematics(best) == 0:
        return None
    return best


def drawing(notebook: NotebookNode) -> int | None:
    """Index of the cell with the lesson's drawing: the first picture that calls itself one, or the first."""
    with_picture = []
    for index, cell in enumerate(notebook.cells):
        picture = image(cell)
        if picture is None:
            continue
        if re.search(r"\b[Dd]rawing|\b[Dd]iagram", alt_text(picture)):
            return index
        with_picture.append(index)
    return with_picture[0] if with_picture else None


def figure(picture: str, sentence: str) -> str:
    return f"<figure>{picture}<figcaption>{to_html(sentence)}</figcaption></figure>"


def caption(notebook: NotebookNode, index: int) -> str:
    """A sentence on what the figure of a cell shows.

    It is the answer to the prediction before the cell, or the first sentence behind it, or that of its alt
    text.
    """
    before = notebook.cells[index - 1]
    if question(before):
        sentence = first_sentence(answer(before.source))
        if sentence and not sentence.startswith("See "):
            return sentence
    behind = (cell for cell in notebook.cells[index + 1 :] if "check" not in cell.metadata.get("tags", []))
    following = next(behind, None)
    if following is not None and following.cell_type == "markdown" and not following.source.startswith("#"):
        sentence = first_sentence(before_prediction(following.source))
        if 20 < len(sentence) < 260 and not sentence.endswith((":", "?")):
            return sentence
    return first_of_alt_text(image(notebook.cells[index]) or "")


def first_of_alt_text(picture: str) -> str:
    """The first sentence of a picture's alt text, or what stands before its first semicolon."""
    return re.split(r"(?<=[.;])\s", alt_text(picture))[0]


def lesson_slides(notebook: NotebookNode) -> Iterator[Slide]:
    """The slides of one lesson, in its order; the drawing comes first."""
    cells = notebook.cells
    headings_of_cells = headings(notebook)
    yield title_slide(cells[0].source)
    drawn = drawing(notebook)
    derived = derivation(notebook)
    if drawn is not None:
        picture = image(cells[drawn]) or ""
        title = headings_of_cells[drawn] if drawn > 1 else "The picture"
        yield Slide(title, figure(picture, first_of_alt_text(picture)))
    for index, cell in enumerate(cells):
        heading = headings_of_cells[index]
        if index == derived:
            text = before_prediction(cell.source)
            text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
            yield Slide(heading, to_html(text), "derivation")
        picture = image(cell)
        if picture is None or index == drawn:
            continue
        prediction = question(cells[index - 1])
        if prediction:
            yield Slide(heading, f"<p>Predict.</p>{to_html(prediction)}", "question")
        yield Slide(heading, figure(picture, caption(notebook, index)))
    takeaways = re.split(r"^#+ Key takeaways.*$", cells[-1].source, flags=re.MULTILINE)[-1]
    yield Slide("Key takeaways", to_html(re.split(r"\*\*Next", takeaways)[0]), "takeaways")


def title_slide(first_cell: str) -> Slide:
    """A lesson's title and aims, from the source of its first cell."""
    title = first_cell.splitlines()[0].lstrip("# ").strip()
    aims = re.search(r"\*\*You will be able to\*\*\s*(.*?)(?=\n\s*\n\*\*|\Z)", first_cell, re.DOTALL)
    body = f"<p>You will be able to</p>{to_html(aims[1])}" if aims else ""
    return Slide(title, body, "title")


# --- the page -----------------------------------------------------------------------------------------------

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
* { box-sizing: border-box }
html { font-size: clamp(14px, min(1.9vw, 3.3vh), 30px); background: #fff; color: #1a1a1a }
body { margin: 0; font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; line-height: 1.45 }
section { display: none; min-height: 100vh; padding: 1.5rem 3rem 2.2rem; flex-direction: column }
section.now { display: flex }
section > div { flex: 1; display: flex; flex-direction: column; justify-content: center; max-width: 46rem;
  width: 100%; margin: 0 auto }
h2 { margin: 0; font-size: 1.5rem; color: #0b4f8a; border-bottom: .12rem solid #0b4f8a;
  padding-bottom: .3rem }
.title h2 { font-size: 1.8rem }
.takeaways > div, .title > div { font-size: .9rem; max-width: 52rem }
.derivation > div { font-size: .8rem; max-width: 56rem }
section > div > p { margin: .5rem 0 }
.question > div { font-size: 1.4rem }
.question > div > p:first-child { color: #a03000; font-weight: bold; margin-bottom: 0 }
li { margin: .45rem 0 }
figure { margin: 0; text-align: center }
img { max-width: 100%; max-height: 62vh; height: auto; min-width: min(100%, 38rem); object-fit: contain }
figcaption { font-size: .95rem; margin-top: .6rem }
figcaption p { margin: 0 }
svg { fill: currentColor; overflow: visible; max-width: 100% }
.display { display: block; text-align: center; margin: .7rem 0 }
code { background: #f0f0f0; padding: 0 .2em; border-radius: .2em }
a.anchor-link { display: none }
nav { position: fixed; right: 1rem; bottom: .6rem; font-size: .7rem; color: #555 }
nav button { font-size: 1rem; padding: .1rem .8rem }
ol a { color: #0b4f8a }
footer { position: fixed; left: 1.2rem; bottom: .6rem; font-size: .7rem; color: #555 }
@media print { section { display: flex; break-after: page; min-height: 0; height: 100vh }
  nav, footer { display: none } }
"""
SCRIPT = """
const slides = [...document.querySelectorAll('section')];
let now = 0;
function go(place) {
  now = Math.max(0, Math.min(slides.length - 1, place));
  slides.forEach((slide, i) => slide.classList.toggle('now', i === now));
  document.getElementById('where').textContent = (now + 1) + ' / ' + slides.length;
  document.getElementById('lesson').textContent = slides[now].dataset.lesson;
  if (location.hash !== '#' + (now + 1)) history.replaceState(null, '', '#' + (now + 1));
  scrollTo(0, 0);
}
const steps = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, ' ': 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1};
addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.tagName === 'BUTTON' && event.key === ' ') return;
  if (event.key in steps) go(now + steps[event.key]);
  else if (event.key === 'Home') go(0);
  else if (event.key === 'End') go(slides.length - 1);
  else return;
  event.preventDefault();
});
document.getElementById('back').onclick = () => go(now - 1);
document.getElementById('on').onclick = () => go(now + 1);
addEventListener('hashchange', () => go(parseInt(location.hash.slice(1)) - 1 || 0));
go(parseInt(location.hash.slice(1)) - 1 || 0);
"""


def section(slide: Slide, lesson: str) -> str:
    """A slide in HTML; `lesson` is what the foot of the slide says."""
    kind = html.escape(slide.kind, quote=True)
    name = html.escape(lesson, quote=True)
    title = re.sub(r"^<p>|</p>$", "", to_html(slide.title).strip())
    return f'<section class="{kind}" data-lesson="{name}"><h2>{title}</h2><div>{slide.body}</div></section>'


def page(lessons: dict[str, list[Slide]]) -> str:
    """All slides as one page, contents first: name of a lesson -> its slides."""
    links = []
    sections = []
    number = 2  # of a slide, counted from 1; the first slide has the contents
    for name, slides in lessons.items():
        links.append(f'<li><a href="#{number}">{html.escape(name)}</a></li>')
        sections += [section(slide, name) for slide in slides]
        number += len(slides)
    contents = f"<p>Four lessons, from the notebooks as they are stored.</p><ol>{''.join(links)}</ol>"
    hint = "<p>Arrow keys or space; Home and End.</p>"
    first = section(Slide("Structured pruning without training: COMP", contents + hint, "title"), "contents")
    buttons = (
        '<button id="back" aria-label="back">&larr;</button> <button id="on" aria-label="on">&rarr;</button>'
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>COMP: slides</title><style>{STYLE}</style></head><body>{first}{''.join(sections)}"
        f'<footer id="lesson"></footer><nav>{buttons} <span id="where" aria-live="polite"></span></nav>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def write(folder: Path, names: tuple[str, ...] = CORE, notebooks: Path = FOLDER) -> Path:
    """Write the page of these notebooks to `folder`, and return its path.

    Raises InputError where it cannot be written.
    """
    if folder.is_file():
        raise InputError(expected="a folder for the slides", got=f"the file {folder}", hint="name another")
    folder.mkdir(parents=True, exist_ok=True)
    path = checked_new_file(folder / "index.html", overwrite=True)
    lessons = {}
    for name in names:
        notebook = nbformat.read(notebooks / f"{name}.ipynb", as_version=4)
        slides = list(lesson_slides(notebook))
        lessons[slides[0].title] = slides
    path.write_text(page(lessons), encoding="utf-8")
    return path


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else "build/slides"
    try:
        written = write(Path(target))
    except InputError as error:
        sys.exit(str(error))
    print(f"{written}  {written.stat().st_size / 1e6:.1f} MB")
