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
from check_jsonschema import main as jsonschema
from click.testing import CliRunner

pytestmark = pytest.mark.filterwarnings("ignore:.*Check CHANGES for Sphinx API")  # what its extensions still call
ROOT = Path(__file__).resolve().parents[1]
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}  # what a browser fetches
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the book is laid out from, which stays here, and its pages."""
    work = tmp_path_factory.mktemp("book")
    kept = SimpleNamespace(TemporaryDirectory=lambda prefix: contextlib.nullcontext(str(work)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(script["main"].__globals__, "tempfile", kept)
        assert script["main"]([str(work / "pages")]) == 0
    return work / "source", work / "pages"


@pytest.fixture(scope="module")
def book(made):
    return made[1]


@pytest.fixture(scope="module")
def pages(book):
    return {path: Page(path) for path in sorted(book.rglob("*.html"))}


def test_every_lesson_and_every_room_has_a_page(book):
    lessons = [
        f"notebooks/{path.stem}"
        for path in (ROOT / "notebooks").rglob("[0-9]*.ipynb")
        if path.parent.name == "notebooks"
    ]
    rooms = [f"reference/{path.name}" for path in (ROOT / "comp_lib").iterdir() if (path / "__init__.py").exists()]
    missing = [name for name in [*lessons, *rooms, "reference/method"] if not (book / f"{name}.html").exists()]
    assert lessons and rooms and not missing


def test_nothing_is_asked_of_anybody_else(pages):
    foreign = {
        (path.name, url) for path, page in pages.items() for url in page.loaded if re.match(r"(https?:)?//", url)
    }
    assert not foreign


def test_links_lead_somewhere(book, pages):
    dead = []
    for path, page in pages.items():
        for link in page.links:
            place = urlsplit(link)
            if place.scheme or place.netloc:
                continue
            target = (path.parent / unquote(place.path)).resolve() if place.path else path
            if not target.exists() or (
                place.fragment and target in pages and place.fragment not in pages[target].anchors
            ):
                dead.append((path.name, link))
    assert not dead


def test_formulas_are_drawn_without_a_script(pages):
    (lesson,) = [path for path in pages if path.stem == "02_matrix_condition" and path.parent.name == "notebooks"]
    assert lesson.read_text("utf-8").count("<math") >= 20
    assert not [url for page in pages.values() for url in page.loaded if "mathjax" in url.lower()]


def test_a_dead_link_ends_the_build(made, tmp_path, capfd):
    source, pages_folder = made
    page = source / "docs" / "python.md"
    whole = page.read_text("utf-8")
    try:
        page.write_text(whole + "\n[nowhere](nowhere.md)\n", "utf-8")
        read = str(
            shutil.copytree(pages_folder / ".doctrees", tmp_path / "read")
        )  # only the changed page is read again
        options = ["-W", "-q", "-b", "dummy", "-c", str(ROOT / "docs"), "-d", read, str(source), str(tmp_path / "out")]
        assert script["sphinx"](options) == 1 and "nowhere.md" in capfd.readouterr().err
    finally:
        page.write_text(whole, "utf-8")


def valid(path):
    return CliRunner().invoke(jsonschema, ["--builtin-schema", "vendor.github-workflows", str(path)])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_one(path):
    done = valid(path)
    assert done.exit_code == 0, done.output
