"""Lay out and build the book: `python docs/book.py build/book`

The pages of this repository keep their places beside each other, so that their links hold: lessons with their
stored outputs, exercises with folded solutions, how-to pages, measurements. docs/start.md is the first page,
and the reference is made from the docstrings. Warnings are errors: a link that leads nowhere ends the build.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "comp_lib"
COURSE = (
    "docs/lessons",
    "notebooks/TEACHING",
    "notebooks/GLOSSARY",
    "docs/invitation",
    "docs/in-the-browser",
    "docs/your-own-course",
)
HOW_TO = (
    "docs/choosing-a-ratio",
    "docs/check-up",
    "docs/command-line",
    "docs/python",
    "docs/quantise",
    "docs/heal",
    "docs/serving",
    "docs/on-the-device",
    "docs/families",
    "docs/clusters",
)
PARTS = {  # of the menu -> its pages
    "Understand": ("docs/how-it-works",),
    "Course": COURSE,
    "How to": HOW_TO,
    "Measured": ("benchmarks/RESULTS",),
    "Reference": ("reference/index",),
    "The project": ("CONTRIBUTING", "CHANGELOG", "SECURITY"),
}
AS_THEY_ARE = "_as_they_are"  # folder of files that Sphinx copies
PAGE_TO_TOUCH = "explore.html"
PAGE_LINK = re.compile(rf"\[([^\[\]]+)\]\(([^()\s]*{re.escape(PAGE_TO_TOUCH)}[^()\s]*)\)")
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "CITATION.cff", "data/README.md")


def toctree(caption: str, entries: list[str]) -> str:
    """A part of the menu, which the page itself does not show; entries: pages from the top of the book."""
    titles = [f":caption: {caption}"] if caption else []
    links = [f"/{entry}" for entry in entries]
    return "\n".join(["```{toctree}", ":hidden:", *titles, "", *links, "```", ""])


def lay_out(source: Path) -> None:
    """Puts everything that the book is made of into the new folder `source`."""
    copy_pages(source)
    page = source / "docs" / "check-up.md"  # what lies in docs/_static is beside all folders in the book
    text = page.read_text("utf-8").replace('href="_static/', 'href="../_static/')
    page.write_text(f"{text}\n{toctree('', ['notebooks/checkup'])}", "utf-8")
    link_exercises(source)
    start = (ROOT / "docs" / "start.md").read_text("utf-8")
    # its links lead out of docs/, but in the book it lies above
    moved = re.sub(r"\]\((?!https?:|#)(\.\./)?", lambda match: "](" if match[1] else "](docs/", start)
    menu = [toctree(caption, list(entries)) for caption, entries in PARTS.items()]
    (source / "index.md").write_text("\n".join([moved, *menu]), "utf-8")
    reference(source / "reference")
    link_page_to_touch(source)


def copy_pages(source: Path) -> None:
    """Copies the pages and what they show."""
    ignored = shutil.ignore_patterns("__pycache__", "*.py", "_static", "start.md")
    shutil.copytree(ROOT / "docs", source / "docs", ignore=ignored)
    for name in PAGES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "benchmarks", source / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.pdf")
    shutil.copytree(ROOT / "notebooks", source / "notebooks", ignore=ignored)
    for path in (source / "notebooks").rglob("*.ipynb"):
        fold_checks(path)


def link_page_to_touch(source: Path) -> None:
    """Keeps docs/explore.html a page: Sphinx makes a download of a link to a file that it does not write."""
    for path in (*source.rglob("*.md"), *source.rglob("*.ipynb")):
        text = path.read_text("utf-8")
        quote = '"' if path.suffix == ".md" else '\\"'  # a notebook is JSON
        path.write_text(PAGE_LINK.sub(rf"<a href={quote}\2{quote}>\1</a>", text), "utf-8")
    target = source / AS_THEY_ARE / "docs" / PAGE_TO_TOUCH
    target.parent.mkdir(parents=True)
    (source / "docs" / PAGE_TO_TOUCH).rename(target)


def link_exercises(source: Path) -> None:
    """Makes links to the folder of exercises lead to its first page; docs/lessons.md gets the menu of all."""
    notebooks = source / "notebooks"
    lessons = sorted(f"notebooks/{path.stem}" for path in notebooks.glob("[0-9]*.ipynb"))
    exercises = sorted(path.stem for path in (notebooks / "exercises").glob("*.ipynb"))
    for page in (notebooks / "TEACHING.md", source / "docs" / "lessons.md"):
        text = re.sub(r"(?<=[(/])exercises\)", f"exercises/{exercises[0]}.ipynb)", page.read_text("utf-8"))
        menu = ""
        if page.stem == "lessons":
            menu = toctree("", lessons + [f"notebooks/exercises/{name}" for name in exercises])
        page.write_text(f"{text}\n{menu}", "utf-8")


def fold_checks(path: Path) -> None:
    """Cells of asserts are folded, as in JupyterLab."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "check" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = [*cell.metadata["tags"], "hide-input"]
    nbformat.write(notebook, path)


def reference(folder: Path) -> None:
    """A page for each part of the package, from its docstrings, and one that lists them."""
    folder.mkdir()
    rooms: dict[str, list[Path]] = {"method": []}
    for path in sorted(PACKAGE.rglob("*.py")):
        parents = path.relative_to(PACKAGE).parts[:-1]
        rooms.setdefault(parents[0] if parents else "method", []).append(path)
    paragraphs = ["# Functions and classes", "What the docstrings say: shapes, units, errors and sources."]
    for room, paths in rooms.items():
        title = "`comp_lib`" if room == "method" else f"`comp_lib.{room}`"
        pages = "\n".join(map(module_page, paths))
        (folder / f"{room}.md").write_text(f"# {title}\n\n{pages}", "utf-8")
        docstring = ast.get_docstring(ast.parse(paths[0].read_text("utf-8"))) or ""
        paragraphs.append(f"- [{title}]({room}.md): {docstring.splitlines()[0]}")
    paragraphs.append(toctree("", [f"reference/{room}" for room in rooms]))
    (folder / "index.md").write_text("\n\n".join(paragraphs), "utf-8")


def module_page(path: Path) -> str:
    """What a module says of itself and of everything public in it, as Markdown."""
    tree = ast.parse(path.read_text("utf-8"))
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    paragraphs = [f"## `{name}`", ast.get_docstring(tree) or ""]
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        paragraphs += described(node, "###")
        if isinstance(node, ast.ClassDef):
            for method in documented_methods(node):
                paragraphs += described(method, "####")
    return "\n\n".join(paragraphs) + "\n"


def documented_methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    return [method for method in methods if not method.name.startswith("_") and ast.get_docstring(method)]


def described(node: ast.FunctionDef | ast.ClassDef, level: str) -> list[str]:
    """A heading, the signature or the fields as code, and the docstring."""
    if isinstance(node, ast.FunctionDef):
        code = f"{node.name}({ast.unparse(node.args)})"
        if node.returns:
            code += f" -> {ast.unparse(node.returns)}"
    else:
        bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
        fields = [f"    {ast.unparse(part)}" for part in node.body if isinstance(part, ast.AnnAssign)]
        code = "\n".join([f"class {node.name}{bases}", *fields])
    return [f"{level} `{node.name}`", f"```text\n{code}\n```", ast.get_docstring(node) or ""]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("folder", type=Path, help="where its pages go")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="comp-lib-book-") as temporary:
        source = Path(temporary) / "source"
        lay_out(source)
        command = ["-W", "--keep-going", "-q", "-b", "html", "-c", str(ROOT / "docs")]
        command += ["-D", f"html_extra_path={source / AS_THEY_ARE}"]
        return sphinx([*command, str(source), str(options.folder)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
