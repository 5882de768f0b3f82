"""How the house stands: `python benchmarks/house.py` counts in comp_lib what issue 11 put a limit on.

Exit code 1 when something is over its limit. `make check` runs the parts that have to hold at every commit (format,
lint, types, import contract); this prints the numbers.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "comp_lib"
LIMITS = {
    "files on top": 12,
    "floors": 12,
    "lines": 10_900,
    "lines of the longest function": 60,
    "parameters of a function": 8,
    "fmt: skip": 0,
}


def functions() -> Iterator[tuple[str, int, int]]:
    """(place, lines, parameters without self and cls) of every function."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args
                names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
                count = len(names) - (names[:1] in (["self"], ["cls"]))
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines, count


def floors() -> int:
    """Of the import contract in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = text.split("layers = [", 1)[1].split("]", 1)[0]
    return sum(line.strip().startswith('"') for line in layers.splitlines())


def passes(*command: str) -> bool:
    """Whether a tool of this environment is content."""
    tool = Path(sys.executable).with_name(command[0])
    return subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True).returncode == 0


def main() -> int:
    texts = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    longest, widest = (max(functions(), key=lambda row: row[place]) for place in (1, 2))
    numbers = {
        "files on top": sum(path.is_file() for path in PACKAGE.iterdir()),
        "floors": floors(),
        "lines": sum(text.count("\n") for text in texts.values()),
        "lines of the longest function": longest[1],
        "parameters of a function": widest[2],
        "fmt: skip": sum(text.count("fmt: skip") for text in texts.values()),
    }
    notes = {"lines of the longest function": longest[0], "parameters of a function": widest[0]}
    over = 0
    for name, number in numbers.items():
        verdict = "ok" if number <= LIMITS[name] else "OVER"
        over += verdict != "ok"
        print(f"{name:32}{number:>8,}  at most {LIMITS[name]:>6,}  {verdict:5} {notes.get(name, '')}")
    for name, command in {"import contract": ("lint-imports",), "mypy, strict": ("mypy",)}.items():
        good = passes(*command)
        over += not good
        print(f"{name:32}{'kept' if good else 'BROKEN':>8}")
    if shutil.which("duplicates"):
        search = ["duplicates", "--min-lines", "6", "--most", "200", "--repo", str(PACKAGE), "--seconds", "60"]
        rows = subprocess.run(search, capture_output=True, text=True).stdout.splitlines()
        print("\nSix or more lines that stand twice (places to look, not a verdict):")
        print("\n".join(rows) if rows else "none")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
