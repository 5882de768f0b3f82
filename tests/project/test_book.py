"""The book: its links hold, its pictures have words, its formulas are drawn; reading it asks nobody."""

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

# the book's extensions still call it
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*Check CHANGES for Sphinx API")]
ROOT = Path(__file__).resolve().parents[2]
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}  # by a browser


class Page(HTMLParser):
    """What a page loads, where it leads, and what it says of its pictures."""

    def __init__(self, path):
        super().__init__()
        self.loaded = []
        self.links = []
        self.alts = []
        self.anchors = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id"))
        target = values.get(LOADED.get(tag))
        if target and values.get("rel") != "canonical":
            self.loaded.append(target)
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "img":
            self.alts.append(values.get("alt") or "")


script = runpy.run_path(str(ROOT / "docs" / "book.py"))
# Pages of each kind. To draw all of them takes the theme seconds, and would show nothing new.
SHOWN = [
    "index.md",
    "docs/check-up.md",
    "docs/python.md",
    "docs/lessons.md",
    "reference/index.md",
    "reference/method.md",
    "docs/how-it-works.md",
    "notebooks/GLOSSARY.md",
    "notebooks/00_start_here.ipynb",
    "notebooks/02_matrix_condition.ipynb",
    "notebooks/checkup.ipynb",
    "notebooks/exercises/02_matrix_condition.ipynb",
]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Folder with the sources of the book, all of them as read and resolved, and SHOWN as HTML."""
    work = tmp_path_factory.mktemp("book")
    kept = SimpleNamespace(TemporaryDirectory=lambda prefix: contextlib.nullcontext(str(work)))

    def sphinx(options):
        options = ["-d", str(work / "read"), *options]
        dry = ["dummy" if option == "html" else option for option in options]
        failure = script["sphinx"](dry)
        if failure:
            return failure
        options.remove("-W")  # one of the warnings says that pages are left out
        return script["sphinx"]([*options, *(str(work / "source" / name) for name in SHOWN)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(script["main"].__globals__, "tempfile", kept)
        patch.setitem(script["main"].__globals__, "sphinx", sphinx)
        assert script["main"]([str(work / "pages")]) == 0
    return work


@pytest.fixture(scope="module")
def pages(book):
    parsed = {path: Page(path) for path in sorted((book / "pages").rglob("*.html"))}
    assert len(SHOWN) <= len(parsed) < 20
    return parsed


def test_every_lesson_and_every_room_has_a_page(book):
    lessons = [f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")]
    folders = [path for path in (ROOT / "comp_lib").iterdir() if (path / "__init__.py").exists()]
    rooms = [f"reference/{folder.name}" for folder in folders]
    names = [*lessons, *rooms, "reference/method"]
    missing = [name for name in names if not (book / "read" / f"{name}.doctree").exists()]
    assert lessons
    assert rooms
    assert not missing


def test_nothing_is_asked_of_anybody_else(pages):
    foreign = set()
    for path, page in pages.items():
        foreign |= {(path.name, url) for url in page.loaded if re.match(r"(https?:)?//", url)}
    assert not foreign


def test_links_lead_somewhere(book, pages):
    """To a page, or to one that was read and would be written."""
    read = book / "read"
    doctrees = read.rglob("*.doctree")
    unwritten = {book / "pages" / path.relative_to(read).with_suffix(".html") for path in doctrees}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            exists = target.exists() or target in unwritten
            known_page = address.fragment and target in pages
            if not exists or (known_page and address.fragment not in pages[target].anchors):
                dead.append((path.name, link))
    assert not dead


def test_a_page_has_one_search_field_and_a_short_menu(book):
    start = (book / "pages" / "index.html").read_text("utf-8")
    assert start.count("search-button-field") == 1
    captions = re.findall(r'class="caption-text">([^<]+)<', start)
    assert captions == ["Understand", "Course", "How to", "Measured", "Reference", "The project"]


def test_pictures_of_the_method_are_what_the_lessons_show():
    expected = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["expected_files"]()
    page = ROOT / "docs" / "how-it-works.md"
    assert len(expected) == 6
    assert not page.read_text("utf-8").count("$$")
    stale = [
        path.name for path, content in expected.items() if not path.exists() or path.read_bytes() != content
    ]
    assert not stale, "run python docs/pictures.py"
    pictures = {path.name for path in expected} - {page.name}
    assert {path.name for path in (ROOT / "docs" / "how").iterdir()} == pictures


def test_formulas_are_drawn_without_a_script(book, pages):
    lesson = book / "pages" / "notebooks" / "02_matrix_condition.html"
    assert lesson in pages
    assert lesson.read_text("utf-8").count("<math") >= 20
    assert not [url for page in pages.values() for url in page.loaded if "mathjax" in url.lower()]


def test_a_dead_link_ends_the_build(book, tmp_path, capfd):
    source = book / "source"
    page = source / "docs" / "python.md"
    text = page.read_text("utf-8")
    try:
        page.write_text(text + "\n[nowhere](nowhere.md)\n", "utf-8")
        read = str(shutil.copytree(book / "read", tmp_path / "read"))  # only the changed page is read again
        options = ["-W", "-q", "-b", "dummy", "-c", str(ROOT / "docs"), "-d", read]
        assert script["sphinx"]([*options, str(source), str(tmp_path / "out")]) == 1
        assert "nowhere.md" in capfd.readouterr().err
    finally:
        page.write_text(text, "utf-8")
