"""Lay out and build the book: `python docs/book.py build/book`

The pages of this repository keep their places beside each other, so that their links hold: lessons with their stored
outputs, exercises with folded solutions, how-to pages, measurements. docs/start.md is the first page, and the reference
is made from the docstrings. Warnings are errors: a link that leads nowhere ends the build.
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
HOW_TO = (
    "choosing-a-ratio",
    "check-up",
    "command-line",
    "python",
    "quantise",
    "heal",
    "serving",
    "on-the-device",
)
HOW_TO += ("families", "clusters")
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "CITATION.cff", "data/README.md")


def toctree(caption: str, entries: list[str]) -> str:
    """A part of the menu, which the page itself does not show; entries: pages from the top of the book."""
    titles = [f":caption: {caption}"] if caption else []
    return "\n".join(
        ["```{toctree}", ":hidden:", *titles, "", *(f"/{entry}" for entry in entries), "```", ""]
    )


def lay_out(source: Path) -> None:
    """Everything that the book is made of, in the new folder `source`."""
    shutil.copytree(
        ROOT / "docs",
        source / "docs",
        ignore=shutil.ignore_patterns("__pycache__", "*.py", "_static", "start.md"),
    )
    page = source / "docs" / "check-up.md"  # what lies in docs/_static is beside all folders in the book
    text = page.read_text("utf-8").replace('href="_static/', 'href="../_static/')
    page.write_text(f"{text}\n{toctree('', ['notebooks/checkup'])}", "utf-8")
    for name in PAGES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "benchmarks", source / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.pdf")
    shutil.copytree(ROOT / "notebooks", source / "notebooks", ignore=ignored)
    for path in (source / "notebooks").rglob("*.ipynb"):
        fold_checks(path)
    lessons = sorted(path.stem for path in (source / "notebooks").glob("[0-9]*.ipynb"))
    exercises = sorted(path.stem for path in (source / "notebooks" / "exercises").glob("*.ipynb"))
    course = toctree(
        "", [f"notebooks/{name}" for name in lessons] + [f"notebooks/exercises/{name}" for name in exercises]
    )
    parts = [
        toctree("Understand", ["docs/how-it-works"]),
        toctree(
            "Course",
            [
                "docs/lessons",
                "notebooks/TEACHING",
                "notebooks/GLOSSARY",
                "docs/invitation",
                "docs/in-the-browser",
                "docs/your-own-course",
            ],
        ),
        toctree("How to", [f"docs/{name}" for name in HOW_TO]),
        toctree("Measured", ["benchmarks/RESULTS"]),
        toctree("Reference", ["reference/index"]),
        toctree("The project", ["CONTRIBUTING", "CHANGELOG", "SECURITY"]),
    ]
    first = f"exercises/{exercises[0]}.ipynb)"  # where a link leads to the folder, which is no page
    for page in (source / "notebooks" / "TEACHING.md", source / "docs" / "lessons.md"):
        text = re.sub(r"(?<=[(/])exercises\)", first, page.read_text("utf-8"))
        page.write_text(f"{text}\n{course if page.stem == 'lessons' else ''}", "utf-8")
    start = (ROOT / "docs" / "start.md").read_text("utf-8")
    moved = re.sub(r"\]\((?!https?:|#)(\.\./)?", lambda match: "](" if match[1] else "](docs/", start)
    (source / "index.md").write_text("\n".join([moved, *parts]), "utf-8")
    reference(source / "reference")


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
    listed = ["# Functions and classes", "What the docstrings say: shapes, units, errors and sources."]
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        rooms.setdefault(place.parts[0] if len(place.parts) > 1 else "method", []).append(path)
    for room, paths in rooms.items():
        title = "The method" if room == "method" else f"`comp_lib.{room}`"
        (folder / f"{room}.md").write_text(f"# {title}\n\n" + "\n".join(map(module_page, paths)), "utf-8")
        words = ast.get_docstring(ast.parse(paths[0].read_text("utf-8"))) or ""
        listed.append(f"- [{title}]({room}.md): {words.splitlines()[0]}")
    listed.append(toctree("", [f"reference/{room}" for room in rooms]))
    (folder / "index.md").write_text("\n\n".join(listed), "utf-8")


def module_page(path: Path) -> str:
    """What a module says of itself and of everything public in it, as Markdown."""
    tree = ast.parse(path.read_text("utf-8"))
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    words = [f"## `{name}`", ast.get_docstring(tree) or ""]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            words += described(node, "###")
            methods = node.body if isinstance(node, ast.ClassDef) else []
            for method in methods:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    words += described(method, "####") if ast.get_docstring(method) else []
    return "\n\n".join(words) + "\n"


def described(node: ast.FunctionDef | ast.ClassDef, level: str) -> list[str]:
    """A heading, the signature or the fields as code, and the docstring."""
    if isinstance(node, ast.FunctionDef):
        head = f"{node.name}({ast.unparse(node.args)})" + (
            f" -> {ast.unparse(node.returns)}" if node.returns else ""
        )
    else:
        fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign)]
        bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
        head = "\n".join([f"class {node.name}{bases}", *(f"    {field}" for field in fields)])
    return [f"{level} `{node.name}`", f"```text\n{head}\n```", ast.get_docstring(node) or ""]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("folder", type=Path, help="where its pages go")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="comp-lib-book-") as temporary:
        source = Path(temporary) / "source"
        lay_out(source)
        return sphinx(
            [
                "-W",
                "--keep-going",
                "-q",
                "-b",
                "html",
                "-c",
                str(ROOT / "docs"),
                str(source),
                str(options.folder),
            ]
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
