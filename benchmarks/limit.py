"""How close pruning comes to what this machine can do: its rates, and where the seconds of the measured runs went.

    python benchmarks/limit.py [--work build]

Measures float32, bfloat16 and float64 products at the shapes of the layers in scale.json, and reading and writing a
file in --work, and keeps them in benchmarks/limit.json. Prints the seconds of each row of scale.json, and of
long_text.json (the same script with fewer layers and more text), by phase, each beside the least that the machine of
that row would have taken (`comp_lib.scale.limit`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from scale import SIZES

from comp_lib.calibration.stream import BATCH_TOKENS
from comp_lib.scale.limit import PIECE, best_time, timed_disk
from comp_lib.system.clock import PHASES

HERE = Path(__file__).parent
TYPES = (torch.float32, torch.bfloat16, torch.float64)


def rates(hidden: int, neurons: int) -> dict[str, float]:
    """Billions of operations a second in the product of BATCH_TOKENS tokens with one matrix of an MLP, by the type."""
    found = {}
    for dtype in TYPES:
        x, w = torch.randn(BATCH_TOKENS, hidden, dtype=dtype), torch.randn(hidden, neurons, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        found[name] = round(2e-9 * BATCH_TOKENS * hidden * neurons / best_time(lambda x=x, w=w: x @ w), 1)
    return found


def table(rows: list[dict]) -> list[str]:
    """Seconds by phase, "took / at least", and their ratio."""
    lines = [f"{'shape':8}{'layers':>7}{'tokens':>8}" + "".join(f"{name:>16}" for name in PHASES) + f"{'ratio':>8}"]
    for row in rows:
        took, least = row["phases"], row["least"]
        cells = [f"{took.get(name, 0.0):.1f} / {least.get(name, 0.0):.1f}" for name in PHASES]
        ratio = sum(took.get(name, 0.0) for name in least) / sum(least.values())
        lines.append(
            f"{row['shape']:8}{row['layers']:>7}{row['tokens']:>8}"
            + "".join(f"{cell:>16}" for cell in cells)
            + f"{ratio:>8.2f}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build"), help="where a file is written and read")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    shapes = {"135m": (576, 1536)} | {name: (size.hidden, size.neurons) for name, size in SIZES.items()}
    found = {name: rates(*shape) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        (Path(folder) / "piece").write_bytes(bytes(PIECE))
        read, written = timed_disk(Path(folder) / "piece", Path(folder))
    row = {"threads": torch.get_num_threads(), "torch": torch.__version__, "gigaflops": found}
    row |= {"read_megabytes_a_second": round(read / 1e6), "written_megabytes_a_second": round(written / 1e6)}
    (HERE / "limit.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row, indent=1))
    rows = [row for name in ("scale.json", "long_text.json") for row in json.loads((HERE / name).read_text("utf-8"))]
    print("\n".join(table([row for row in rows if row.get("least")])))


if __name__ == "__main__":
    main()
