"""Slides of the core lessons: `python notebooks/teaching/slides.py build/slides`

One page of HTML, made from the notebooks as they are stored: of each lesson its aims, the drawing, the derivation, the
figures with a sentence each (a prediction that stands before a figure is a slide of its own), and the takeaways. The
page holds all that it shows and asks for nothing from outside; a policy in it forbids the browser to. Formulas are set
by matplotlib, and their source is what a screen reader reads. Arrow keys, space, Home and End; it prints.
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

from comp_lib.errors import InputError
from comp_lib.system.atomic import check_output

FOLDER = Path(__file__).resolve().parents[1]
CORE = ("01_layer_importance", "02_matrix_condition", "03_hybrid_granularity", "04_mask_tuning")
DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL)
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$]+?)(?<!\s)\$", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*`$(])")
SIZE = 100  # units of a formula to an em

# --- formulas ---------------------------------------------------------------------------------------------------------

PLAIN = (  # what matplotlib's own parser does not know: pattern, what to write instead
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


def _upright(words: str) -> str:
    return r"\mathrm{" + words.replace(" ", r"\ ").replace("-", r"\!-\!" if " " not in words else "-") + "}"


def _group(latex: str, start: int) -> int:
    """Where the group in braces that begins at `start` ends."""
    depth = 0
    for place in range(start, len(latex)):
        depth += {"{": 1, "}": -1}.get(latex[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"expected as many closing braces as opening ones, got {latex!r}")


def _without_braces_below(latex: str) -> str:
    """The formula without `underbrace` and the words under it: `plain` only, the label keeps them."""
    while (place := latex.find(mark := r"\underbrace{")) >= 0:
        start = place + len(mark) - 1
        end = _group(latex, start)
        after = _group(latex, end + 1) if latex[end : end + 2] == "_{" else end
        latex = latex[:place] + latex[start + 1 : end - 1] + latex[after:]
    return latex


def plain(latex: str) -> str:
    """The formula in the part of LaTeX that matplotlib sets."""
    latex = _without_braces_below(" ".join(latex.split()))
    for pattern, instead in PLAIN:
        latex = re.sub(pattern, instead, latex)
    return latex


def lines(latex: str) -> list[str]:
    """A displayed formula line by line, its alignment left out."""
    latex = re.sub(r"\\(?:begin|end)\{(?:aligned|align\*?|gathered|array|split)\}(?:\{[^{}]*\})?", "", latex)
    return [line.replace("&", " ").strip() for line in re.split(r"\\\\(?:\[[^]]*\])?", latex) if line.strip()]


def formula(latex: str) -> str:
    """One line of LaTeX as a drawing in the text. Raises ValueError for what matplotlib cannot set."""
    words = f"${plain(latex)}$"
    font = FontProperties(size=SIZE)
    with rc_context({"mathtext.fontset": "stix"}):
        width, height, depth, _, _ = MathTextParser("path").parse(words, dpi=72, prop=font)
        curve = TextPath((0, 0), words, size=SIZE, prop=font)
    steps = []
    for points, code in curve.iter_segments(simplify=False, curves=True):
        letter = {
            Curve.MOVETO: "M",
            Curve.LINETO: "L",
            Curve.CURVE3: "Q",
            Curve.CURVE4: "C",
            Curve.CLOSEPOLY: "Z",
        }[code]
        pairs = zip(points[::2], points[1::2], strict=True)
        steps.append("Z" if letter == "Z" else letter + " ".join(f"{x:.1f} {-y:.1f}" for x, y in pairs))
    width, height, depth = max(width, 1.0), height + 4.0, depth + 2.0
    style = f"width:{width / SIZE:.3f}em;height:{(height + depth) / SIZE:.3f}em;vertical-align:{-depth / SIZE:.3f}em"
    box = f"0 {-height:.1f} {width:.1f} {height + depth:.1f}"
    label = html.escape(" ".join(latex.split()), quote=True)
    return f'<svg role="img" aria-label="{label}" style="{style}" viewBox="{box}"><path d="{"".join(steps)}"/></svg>'


def math(latex: str, display: bool) -> str:
    """A formula in the text or on lines of its own; what cannot be set is shown as it is written."""
    try:
        if display:
            return "".join(f'<span class="display">{formula(line)}</span>' for line in lines(latex))
        return formula(latex)
    except ValueError:
        return f"<code>{html.escape(latex)}</code>"


def to_html(markdown: str) -> str:
    """Markdown with formulas as HTML; links become words, since there is nothing to go to."""
    markdown = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", markdown)
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(math(match[1] or match[2], display=match[1] is not None))
        return f"@@{len(kept) - 1}@@"

    code = re.split(r"(```.*?```|`[^`\n]*`)", markdown, flags=re.DOTALL)
    code[::2] = [MATH.sub(keep, text) for text in code[::2]]
    return re.sub(r"@@(\d+)@@", lambda match: kept[int(match[1])], markdown2html("".join(code)))


# --- what a lesson holds ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slide:
    """A heading, and HTML below it."""

    title: str
    body: str
    kind: str = ""


def unfolded(source: str) -> str:
    """What everybody reads of a cell."""
    return DETAILS.sub("", source).strip()


def question(source: str) -> str | None:
    """The prediction that a cell ends with."""
    found = re.search(r"\*\*Predict\.?\*\*\.?(.*)", unfolded(source), re.DOTALL)
    return found[1].strip() if found else None


def answer(source: str) -> str | None:
    """What is folded away in a cell: its last answer."""
    found = DETAILS.findall(source)
    return found[-1][1].strip() if found else None


def first_sentence(text: str) -> str:
    """Up to the first full stop, nothing of a heading."""
    paragraph = next((part for part in re.split(r"\n\s*\n", text.strip()) if not part.startswith("#")), "")
    return SENTENCE.split(" ".join(paragraph.split()))[0]


def image(cell: NotebookNode) -> str | None:
    """The picture that a code cell shows, with its words."""
    for output in cell.get("outputs", []):
        found = re.search(r"<img[^>]*>", str(output.get("data", {}).get("text/html", "")))
        if found and "data:image/" in found[0]:
            return found[0]
    return None


def words_of(picture: str) -> str:
    found = re.search(r'alt="([^"]*)"', picture)
    return html.unescape(found[1]) if found else ""


def headings(notebook: NotebookNode) -> list[str]:
    """For each cell the heading under which it stands, without marks and numbers."""
    found, now = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in unfolded(cell.source).splitlines():
                if re.match(r"#{1,3} ", line):
                    now = re.sub(r"^#+ (?:\d+ · )?", "", line).strip()
        found.append(now)
    return found


def derivation(notebook: NotebookNode) -> int | None:
    """The cell in which something is derived: one that says so, or else the one with the most mathematics."""

    def weight(cell: NotebookNode) -> tuple[bool, int]:
        text = unfolded(cell.source)
        said = bool(re.search(r"derivation|\bproof\b|\bderive", text, re.IGNORECASE))
        amount = sum(len(match[0]) for match in MATH.finditer(text))
        return said and amount > 0, amount

    candidates = [
        place
        for place, cell in enumerate(notebook.cells[:-1])
        if place and cell.cell_type == "markdown" and not re.match(r"## (Quiz|Your turn)", cell.source)
    ]
    best = max(candidates, key=lambda place: weight(notebook.cells[place]), default=None)
    return best if best is not None and weight(notebook.cells[best])[1] else None


def drawing(notebook: NotebookNode) -> int | None:
    """The cell that shows the lesson's drawing: the first picture that calls itself one, or else the first."""
    pictures = {place: picture for place, cell in enumerate(notebook.cells) if (picture := image(cell))}
    own = [
        place
        for place, picture in pictures.items()
        if re.search(r"\b[Dd]rawing|\b[Dd]iagram", words_of(picture))
    ]
    return next(iter(own or pictures), None)


def figure(picture: str, sentence: str) -> str:
    return f"<figure>{picture}<figcaption>{to_html(sentence)}</figcaption></figure>"


def caption(notebook: NotebookNode, place: int) -> str:
    """What a figure shows, in a sentence: the answer to the prediction before it, or what is said behind it."""
    before = notebook.cells[place - 1]
    if before.cell_type == "markdown" and question(before.source):
        told = first_sentence(answer(before.source) or "")
        if told and not told.startswith("See "):
            return told
    behind = (cell for cell in notebook.cells[place + 1 :] if "check" not in cell.metadata.get("tags", []))
    following = next(behind, None)
    if following is not None and following.cell_type == "markdown" and not following.source.startswith("#"):
        sentence = first_sentence(re.split(r"\*\*Predict", unfolded(following.source))[0])
        if 20 < len(sentence) < 260 and not sentence.endswith((":", "?")):
            return sentence
    return described(image(notebook.cells[place]) or "")


def described(picture: str) -> str:
    """The first sentence of a picture's own words."""
    return re.split(r"(?<=[.;])\s", words_of(picture))[0]


def lesson_slides(notebook: NotebookNode) -> Iterator[Slide]:
    """The slides of one lesson, in its order."""
    cells, under = notebook.cells, headings(notebook)
    title = cells[0].source.splitlines()[0].lstrip("# ").strip()
    aims = re.search(r"\*\*You will be able to\*\*\s*(.*?)(?=\n\s*\n\*\*|\Z)", cells[0].source, re.DOTALL)
    yield Slide(title, f"<p>You will be able to</p>{to_html(aims[1])}" if aims else "", "title")
    drawn, derived = drawing(notebook), derivation(notebook)
    if drawn is not None:
        picture = image(cells[drawn]) or ""
        yield Slide(under[drawn] if drawn > 1 else "The picture", figure(picture, described(picture)))
    for place, cell in enumerate(cells):
        if place == derived:
            text = re.split(r"\*\*Predict", unfolded(cell.source))[0]
            text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
            yield Slide(under[place], to_html(text), "derivation")
        picture = image(cell)
        if picture is None or place == drawn:
            continue
        asked = question(cells[place - 1].source) if cells[place - 1].cell_type == "markdown" else None
        if asked:
            yield Slide(under[place], f"<p>Predict.</p>{to_html(asked)}", "question")
        yield Slide(under[place], figure(picture, caption(notebook, place)))
    items = re.split(r"^#+ Key takeaways.*$", cells[-1].source, flags=re.MULTILINE)[-1]
    yield Slide("Key takeaways", to_html(re.split(r"\*\*Next", items)[0]), "takeaways")


# --- the page ---------------------------------------------------------------------------------------------------------

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
* { box-sizing: border-box }
html { font-size: clamp(14px, min(1.9vw, 3.3vh), 30px); background: #fff; color: #1a1a1a }
body { margin: 0; font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; line-height: 1.45 }
section { display: none; min-height: 100vh; padding: 1.5rem 3rem 2.2rem; flex-direction: column }
section.now { display: flex }
section > div { flex: 1; display: flex; flex-direction: column; justify-content: center; max-width: 46rem;
  width: 100%; margin: 0 auto }
h2 { margin: 0; font-size: 1.5rem; color: #0b4f8a; border-bottom: .12rem solid #0b4f8a; padding-bottom: .3rem }
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
    kind, name = html.escape(slide.kind, quote=True), html.escape(lesson, quote=True)
    title = re.sub(r"^<p>|</p>$", "", to_html(slide.title).strip())
    return f'<section class="{kind}" data-lesson="{name}"><h2>{title}</h2><div>{slide.body}</div></section>'


def page(lessons: dict[str, list[Slide]]) -> str:
    """All slides as one page, contents first: name of a lesson -> its slides."""
    links, sections, place = [], [], 2
    for name, slides in lessons.items():
        links.append(f'<li><a href="#{place}">{html.escape(name)}</a></li>')
        sections += [section(slide, name) for slide in slides]
        place += len(slides)
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
    """The page in `folder`, from the notebooks of those names. Raises InputError where none can be written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = check_output(folder / "index.html", overwrite=True)
    lessons = {}
    for name in names:
        notebook = nbformat.read(notebooks / f"{name}.ipynb", as_version=4)
        slides = list(lesson_slides(notebook))
        lessons[slides[0].title] = slides
    path.write_text(page(lessons), encoding="utf-8")
    return path


if __name__ == "__main__":
    try:
        made = write(Path(sys.argv[1] if len(sys.argv) > 1 else "build/slides"))
    except InputError as error:
        sys.exit(str(error))
    print(f"{made}  {made.stat().st_size / 1e6:.1f} MB")
