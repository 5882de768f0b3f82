"""How close pruning from disk to disk comes to what this machine can do: a roofline.

    python benchmarks/limit.py [--work build]

A run has to do some products, and read and write some bytes, whatever the program. `Run.work` counts them from the
shapes alone, each product once, of a symmetric one half; `Machine.measured` is what this computer does in a second of
each kind. One divided by the other is the least time. Measures the machine at the shapes of scale.json, keeps that in
limit.json, and prints each row of scale.json, long_text.json and bfloat16.json beside the least that the machine of
that row would have taken, which `scale.py` stores with it.

Not counted: planning (block influence, measured widths), the elementwise work between two products, the system's calls.
Operations are additions and multiplications, two for each multiply-add. The settings are COMP's own: least squares with
the aim "self", the ridge chosen by held-out text. (Our count, tested against what torch counts.)
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import HERE, parser_of, read_json, write_json

from comp_lib.calibration.stream import BATCH_TOKENS
from comp_lib.plan import Plan
from comp_lib.recovery.least_squares import JUDGED
from comp_lib.shape import Shape
from comp_lib.statistics.gram import WIDE, enough

PIECE = 16 << 20  # bytes of a file, read or written to see how fast that is
WIDEST = 1024  # of the matrices that are multiplied to see how fast that is
TRIED = 3  # solves with which a ridge is chosen
TYPES = (torch.float32, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Work:
    """What there is to do at least."""

    model: float = 0.0  # operations in the model's own precision
    single: float = 0.0  # operations in float32
    double: float = 0.0  # operations in float64
    read: float = 0.0  # bytes
    written: float = 0.0  # bytes

    def __add__(self, other: Work) -> Work:
        return Work(
            *(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True))
        )


@dataclass(frozen=True)
class Run:
    """What decides how much work a run is."""

    shape: Shape  # of the parent
    plan: Plan
    sequences: int
    length: int  # tokens of each
    stored: int  # bytes of the parent's files
    saved: int = 2  # bytes of a weight in the new ones
    state: int = 4  # bytes of a number in the hidden states

    @property
    def tokens(self) -> int:
        return self.sequences * self.length

    def work(self) -> Work:
        """All of it: each layer that stays passes the text on twice, whole and narrowed, and is refitted between."""
        shape, plan = self.shape, self.plan
        moved = self.tokens * shape.hidden * self.state * len(plan.layers)
        after = shape.total - plan.removed * shape.decoder
        total = Work(read=self.stored, written=self.saved * after + moved)
        for layer, neurons, groups in zip(plan.layers, plan.neurons, plan.kv_groups, strict=True):
            block = shape.head_dim * shape.group_heads
            for keep, whole, passing, size in (
                (groups, shape.kv_groups[layer], self.through_attention, block),
                (neurons, shape.neurons[layer], self.through_mlp, 1),
            ):
                total += passing(keep)
                if keep < whole:
                    total += passing(whole) + sum(self.dense_layer(whole * size, keep * size), start=Work())
        return total

    def through_mlp(self, neurons: int) -> Work:
        """All tokens."""
        return Work(model=2.0 * self.tokens * neurons * self.shape.neuron_parameters)

    def through_attention(self, groups: int) -> Work:
        """All tokens."""
        queries = groups * self.shape.group_heads * self.shape.head_dim
        scores = (
            2.0 * self.tokens * self.length * queries
        )  # of each token with itself and those before it, twice
        return Work(model=2.0 * self.tokens * groups * self.shape.group_parameters + scores)

    def dense_layer(self, n: int, k: int) -> Iterator[Work]:
        """Sums, selection and solve of one dense layer of n inputs, of which k stay."""
        tokens, m, gone = self.tokens, self.shape.hidden, n - k
        judged = m if m < 2 * JUDGED else JUDGED
        tried = TRIED if self.sequences > 1 else 0
        # in both forms the solve ends with two sums of squares: the error, and what it is in proportion to
        if tokens >= enough(n):  # the sums are the matrix X^T X
            kind = "single" if n >= WIDE else "double"
            alive = (n + k) / 2  # on the mean over the sweep, which solves the refit on its way
            yield Work(single=float(tokens) * n * n)
            yield Work(**{kind: float(n) ** 3 + gone * alive * (alive + 2.0 * m)})
            yield Work(**{kind: tried * (k**3 / 3 + 4.0 * k * k * judged)}) + Work(single=4.0 * n * n * m)
            return
        half = tokens / 2
        rounds = 2.0 * tokens * tokens + 2.0 * tokens * (n + k) / 2 + tokens * tokens
        yield Work(single=float(tokens) ** 2 * n + 2.0 * gone * (n + k) / 2 * m)
        yield Work(double=float(tokens) ** 3 + float(tokens) ** 2 * n + gone * rounds)
        ridge = Work(
            single=tried and 3.0 * half * half * k, double=tried * (half**3 / 3 + 4.0 * half**2 * judged)
        )
        yield ridge + Work(single=4.0 * tokens * n * m)


@dataclass(frozen=True)
class Machine:
    """What this computer does in a second, with the threads that torch has now: rates by the names of `Work`."""

    model: float
    single: float
    double: float
    read: float
    written: float

    @classmethod
    def measured(cls, hidden: int, neurons: int, folder: Path, dtype: torch.dtype = torch.float32) -> Machine:
        """At the shapes of a layer; folder: to write a file in, for a moment; dtype: in which the model computes."""
        width = min(neurons, WIDEST)
        rates = [product_rate(hidden, width, one) for one in (dtype, torch.float32, torch.float64)]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            file = Path(place, "piece")
            written = PIECE / best_time(lambda: _write(file))
            return cls(*rates, PIECE / best_time(file.read_bytes), written)

    def seconds(self, work: Work) -> float:
        """The least time for `work`, one kind after the other."""
        return sum(
            amount / rate for amount, rate in zip(asdict(work).values(), asdict(self).values(), strict=True)
        )


def product_rate(hidden: int, width: int, dtype: torch.dtype) -> float:
    """Operations a second of BATCH_TOKENS tokens that pass a matrix of a layer."""
    tokens, inputs = torch.randn(BATCH_TOKENS, hidden).to(dtype), torch.randn(hidden, width).to(dtype)
    return 2.0 * BATCH_TOKENS * hidden * width / best_time(lambda: tokens @ inputs)


def best_time(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the quickest of a few times."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return max(min(took), 1e-9)


def _write(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write(bytes(PIECE))
        stream.flush()
        os.fsync(stream.fileno())


def least(row: dict) -> float:
    """Seconds stored with a row: as one number, or in older rows by phase."""
    return row["least"] if isinstance(row["least"], float) else sum(row["least"].values())


def stored_rows() -> list[dict]:
    """All rows of measured runs that say what the least was."""
    files = ("scale.json", "long_text.json", "bfloat16.json")
    return [row for file in files for row in read_json(HERE / file) if row.get("least")]


def table(rows: list[dict]) -> list[str]:
    lines = [f"{'shape':8}{'layers':>7}{'tokens':>8}{'seconds':>10}{'at least':>10}{'ratio':>8}"]
    for row in rows:
        cells = f"{row['seconds']:>10.1f}{least(row):>10.1f}{row['seconds'] / least(row):>8.2f}"
        lines.append(f"{row['shape']:8}{row['layers']:>7}{row['tokens']:>8}{cells}")
    return lines


def main() -> None:
    from scale import SIZES

    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, default=Path("build"), help="where a file is written and read")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    shapes = {"135m": (576, 1536)} | {name: (size.hidden, size.neurons) for name, size in SIZES.items()}
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in TYPES}
    found = {
        name: {word: round(product_rate(*shape, dtype) / 1e9, 1) for dtype, word in names.items()}
        for name, shape in shapes.items()
    }
    disk = Machine.measured(*shapes["135m"], arguments.work)
    row = {"threads": torch.get_num_threads(), "torch": torch.__version__, "gigaflops": found}
    row |= {
        "read_megabytes_a_second": round(disk.read / 1e6),
        "written_megabytes_a_second": round(disk.written / 1e6),
    }
    write_json(HERE / "limit.json", row)
    print("\n".join(table(stored_rows())))


if __name__ == "__main__":
    main()
