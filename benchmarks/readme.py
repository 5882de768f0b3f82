"""Put the table of a stored comparison into README.md: `python benchmarks/readme.py`

The rows come from benchmarks/peers/rows.csv, which `comp-lib compare` wrote; the table is that of its largest size. A
test asks whether README.md still says what the rows do.
"""

from __future__ import annotations

import sys
from pathlib import Path

from comp_lib.compare import ROWS, read_rows
from comp_lib.summary import comparison, finished

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "peers"
START, END = "<!-- table of benchmarks/peers, written by benchmarks/readme.py -->", "<!-- end of the table -->"


def table(folder: Path = FOLDER) -> str:
    """What was measured, and the increase of the loss for each method and ratio."""
    rows = finished(read_rows(folder / ROWS))
    rows = rows[rows.sequences == rows.sequences.max()]
    first = rows.iloc[0]
    return (
        f"Increase of the loss over the dense model (nats per token) when that part of {first.model}'s decoder goes;\n"
        f"{first.sequences} x {first.length} tokens of the text `{first.calibration}` calibrate, {first.windows} x "
        f"{first.window} of `{first.evaluation}` judge.\n\n{comparison(rows, 'increase')}"
    )


def with_table(readme: str, folder: Path = FOLDER) -> str:
    """`readme` with the table between its two marks."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{table(folder)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
