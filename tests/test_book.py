"""The book: its links hold, its pictures have words, its formulas are drawn, and reading it asks nobody else."""

from __future__ import annotations

import contextlib
import re
import runpy
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Check CHANGES for Sphinx API"
)  # what its extensions still call
ROOT = Path(__file__).resolve().parents[1]
LOADED = {
    "link": "href",
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
}  # what a browser fetches


class Page(HTMLParser):
    """What a page loads, where it leads, and what it says of its pictures."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.links, self.alts, self.anchors = [], [], [], set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.add(given.get("id"))
        if tag in LOADED and given.get("rel") != "canonical" and (target := given.get(LOADED[tag])):
            self.loaded.append(target)
        if tag == "a" and (target := given.get("href")):
            self.links.append(target)
        if tag == "img":
            self.alts.append(given.get("alt") or "")


script = runpy.run_path(str(ROOT / "docs" / "book.py"))
# Pages of each kind. The theme takes seconds for all of them, and brings nothing to one that it does not to another.
SHOWN = [
    "index.md",
    "docs/check-up.md",
    "docs/python.md",
    "docs/lessons.md",
    "reference/index.md",
    "reference/method.md",
]
SHOWN += ["docs/how-it-works.md", "notebooks/GLOSSARY.md"]
SHOWN += [f"notebooks/{name}.ipynb" for name in ("00_start_here", "02_matrix_condition", "checkup")]
SHOWN += ["notebooks/exercises/02_matrix_condition.ipynb"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the book is laid out from, which stays here, all of it as read and resolved, and SHOWN of its pages."""
    work = tmp_path_factory.mktemp("book")
    kept = SimpleNamespace(TemporaryDirectory=lambda prefix: contextlib.nullcontext(str(work)))

    def sphinx(options):
        options = ["-d", str(work / "read"), *options]
        resolved = script["sphinx"](["dummy" if word == "html" else word for word in options])
        options.remove("-W")  # one of them says that pages are left out
        return resolved or script["sphinx"]([*options, *(str(work / "source" / name) for name in SHOWN)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(script["main"].__globals__, "tempfile", kept)
        patch.setitem(script["main"].__globals__, "sphinx", sphinx)
        assert script["main"]([str(work / "pages")]) == 0
    return work


@pytest.fixture(scope="module")
def pages(made):
    found = {path: Page(path) for path in sorted((made / "pages").rglob("*.html"))}
    assert len(SHOWN) <= len(found) < 20
    return found


def test_every_lesson_and_every_room_has_a_page(made):
    lessons = [
        f"notebooks/{path.stem}"
        for path in (ROOT / "notebooks").rglob("[0-9]*.ipynb")
        if path.parent.name == "notebooks"
    ]
    rooms = [
        f"reference/{path.name}" for path in (ROOT / "comp_lib").iterdir() if (path / "__init__.py").exists()
    ]
    missing = [
        name
        for name in [*lessons, *rooms, "reference/method"]
        if not (made / "read" / f"{name}.doctree").exists()
    ]
    assert lessons and rooms and not missing


def test_nothing_is_asked_of_anybody_else(pages):
    foreign = {
        (path.name, url)
        for path, page in pages.items()
        for url in page.loaded
        if re.match(r"(https?:)?//", url)
    }
    assert not foreign


def test_links_lead_somewhere(made, pages):
    """To a page, or to one that was read and would be written."""
    dead, read = [], made / "read"
    others = {
        made / "pages" / path.relative_to(read).with_suffix(".html") for path in read.rglob("*.doctree")
    }
    for path, page in pages.items():
        for link in page.links:
            place = urlsplit(link)
            if place.scheme or place.netloc:
                continue
            target = (path.parent / unquote(place.path)).resolve() if place.path else path
            if not (target.exists() or target in others) or (
                place.fragment and target in pages and place.fragment not in pages[target].anchors
            ):
                dead.append((path.name, link))
    assert not dead


def test_a_page_has_one_search_field_and_a_short_menu(made):
    start = (made / "pages" / "index.html").read_text("utf-8")
    assert start.count("search-button-field") == 1
    captions = re.findall(r'class="caption-text">([^<]+)<', start)
    assert captions == ["Understand", "Course", "How to", "Measured", "Reference", "The project"]


def test_pictures_of_the_method_are_what_the_lessons_show():
    wanted = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["wanted"]()
    assert len(wanted) == 6 and not (ROOT / "docs" / "how-it-works.md").read_text("utf-8").count("$$")
    stale = [
        path.name for path, content in wanted.items() if not path.exists() or path.read_bytes() != content
    ]
    assert not stale, "run python docs/pictures.py"
    assert {path.name for path in (ROOT / "docs" / "how").iterdir()} == {path.name for path in wanted} - {
        "how-it-works.md"
    }


def test_formulas_are_drawn_without_a_script(pages):
    (lesson,) = [
        path for path in pages if path.stem == "02_matrix_condition" and path.parent.name == "notebooks"
    ]
    assert lesson.read_text("utf-8").count("<math") >= 20
    assert not [url for page in pages.values() for url in page.loaded if "mathjax" in url.lower()]


def test_a_dead_link_ends_the_build(made, tmp_path, capfd):
    source = made / "source"
    page = source / "docs" / "python.md"
    whole = page.read_text("utf-8")
    try:
        page.write_text(whole + "\n[nowhere](nowhere.md)\n", "utf-8")
        read = str(shutil.copytree(made / "read", tmp_path / "read"))  # only the changed page is read again
        options = [
            "-W",
            "-q",
            "-b",
            "dummy",
            "-c",
            str(ROOT / "docs"),
            "-d",
            read,
            str(source),
            str(tmp_path / "out"),
        ]
        assert script["sphinx"](options) == 1 and "nowhere.md" in capfd.readouterr().err
    finally:
        page.write_text(whole, "utf-8")
