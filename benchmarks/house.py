"""How the house stands: `python benchmarks/house.py` counts lines by room, and what CONTRIBUTING.md puts a limit on.

Exit code 1 when something is over its limit. `make lint` runs what has to hold at every commit.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "comp_lib"
LIMITS = {  # lines
    "comp_lib": 9_000,
    "tests": 15_000,
    "notebooks/course": 2_500,
    "benchmarks": 2_500,
    "longest function": 60,
    "most parameters": 8,
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


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rooms: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        rooms[path.relative_to(PACKAGE).parts[0]] += lines_of(path)
    for room, lines in rooms.most_common():
        print(f"{room:24}{lines:>8,}")
    longest = max(functions(), key=lambda row: row[1])
    widest = max((row for row in functions() if "/cli/" not in row[0]), key=lambda row: row[2])  # a command has flags
    numbers = {name: sum(map(lines_of, (ROOT / name).rglob("*.py"))) for name in list(LIMITS)[:4]}
    numbers |= {"longest function": longest[1], "most parameters": widest[2]}
    notes = {"longest function": longest[0], "most parameters": widest[0]}
    over = [name for name, number in numbers.items() if number > LIMITS[name]]
    for name, number in numbers.items():
        verdict = "OVER" if name in over else "ok"
        print(f"{name:24}{number:>8,}  at most {LIMITS[name]:>6,}  {verdict:5} {notes.get(name, '')}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
