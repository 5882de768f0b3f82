"""How close pruning from disk to disk comes to what this machine can do: a roofline.

    python benchmarks/limit.py [--work build]

A run has to do some products, and read and write some bytes, whatever the program. `Run.work` counts them
from the shapes alone, each product once, of a symmetric one half; `Machine.measured` is what this computer
does in a second of each kind. One divided by the other is the least time. The script measures the machine at
the shapes of scale.json and keeps that in limit.json. It prints each row of scale.json, long_text.json and
bfloat16.json beside the least time that the machine of that row would have taken, which `scale.py` stores
with it.

Not counted: planning (block influence, measured widths), the elementwise work between two products, the
system's calls. Operations are additions and multiplications, two for each multiply-add. The settings are
COMP's own: least squares with the aim "self", the ridge chosen by held-out text. (Our count, tested against
what torch counts.)
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import HERE, parser_of, read_json, write_json

from comp_lib.decoder.shape import Shape
from comp_lib.decoder.walk import BATCH_TOKENS
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.importance.statistics.sums import SINGLE_PRECISION_INPUTS, tokens_for_matrix
from comp_lib.recovery.least_squares import PROJECTIONS

PIECE = 16 << 20  # bytes of a file, read or written to see how fast that is
MATRIX_WIDTH = 1024  # the most columns of the matrices that are multiplied to see how fast that is
RIDGE_SOLVES = 3  # solves with which a ridge is chosen
TYPES = (torch.float32, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Size:
    """A Llama with one query head to a KV head."""

    layers: int
    hidden: int
    neurons: int
    heads: int
    vocabulary: int = 32000

    @property
    def parameters(self) -> int:
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.neurons + 2 * self.hidden
        return self.layers * layer + 2 * self.vocabulary * self.hidden + self.hidden


SIZES = {"7b": Size(32, 4096, 11008, 32), "3b": Size(26, 3200, 8640, 32), "1b": Size(16, 2048, 5632, 32)}


@dataclass(frozen=True)
class Work:
    """What there is to do at least."""

    model: float = 0.0  # operations in the model's own precision
    single: float = 0.0  # operations in float32
    double: float = 0.0  # operations in float64
    read: float = 0.0  # bytes
    written: float = 0.0  # bytes

    def __add__(self, addend: Work) -> Work:
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(addend).values(), strict=True)))


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
        """All of it: the text passes each layer that stays twice, dense and narrowed; a refit is between."""
        shape = self.shape
        plan = self.plan
        states = self.tokens * shape.hidden_size * self.state * len(plan.layers)
        parameters = shape.total_parameters - plan.removed * shape.decoder_parameters
        total = Work(read=self.stored, written=self.saved * parameters + states)
        block = shape.head_dim * shape.group_heads  # columns of o_proj for each KV group
        for layer, neurons, groups in zip(plan.layers, plan.neurons, plan.kv_groups, strict=True):
            all_groups = shape.kv_groups[layer]
            total += self.through_attention(groups)
            if groups < all_groups:
                total += self.through_attention(all_groups) + self.refit(all_groups * block, groups * block)
            all_neurons = shape.neurons[layer]
            total += self.through_mlp(neurons)
            if neurons < all_neurons:
                total += self.through_mlp(all_neurons) + self.refit(all_neurons, neurons)
        return total

    def through_mlp(self, neurons: int) -> Work:
        """All tokens pass an MLP of so many neurons."""
        return Work(model=2.0 * self.tokens * neurons * self.shape.neuron_parameters)

    def through_attention(self, groups: int) -> Work:
        """All tokens pass an attention of so many KV groups."""
        queries = groups * self.shape.group_heads * self.shape.head_dim
        # of each token with itself and the tokens before it: once for the scores, once for the values
        scores = 2.0 * self.tokens * self.length * queries
        return Work(model=2.0 * self.tokens * groups * self.shape.group_parameters + scores)

    def refit(self, n: int, k: int) -> Work:
        """Sums, selection and solve of a Linear of n inputs, of which k stay."""
        m = self.shape.hidden_size
        return self.sums(n) + self.selection_and_solve(n, k) + self.ridge_search(n, k) + self.error(n, m)

    def as_matrix(self, n: int) -> bool:
        """Whether the sums of n inputs are the matrix X^T X; else they are the few tokens themselves."""
        return self.tokens >= tokens_for_matrix(n)

    def sums(self, n: int) -> Work:
        if self.as_matrix(n):
            return Work(single=float(self.tokens) * n * n)
        return Work(single=float(self.tokens) ** 2 * n)

    def selection_and_solve(self, n: int, k: int) -> Work:
        """A sweep that removes n - k inputs and solves the refit on its way."""
        tokens = self.tokens
        m = self.shape.hidden_size
        removed = n - k
        alive = (n + k) / 2  # inputs, on the mean over the sweep
        if self.as_matrix(n):
            return wide_or_double(n, float(n) ** 3 + removed * alive * (alive + 2.0 * m))
        rounds = 2.0 * tokens * tokens + 2.0 * tokens * alive + tokens * tokens
        double = float(tokens) ** 3 + float(tokens) ** 2 * n + removed * rounds
        return Work(single=2.0 * removed * alive * m, double=double)

    def ridge_search(self, n: int, k: int) -> Work:
        """Solves over half of the text, judged by the other half, which one sequence alone does not have."""
        if self.sequences == 1:
            return Work()
        m = self.shape.hidden_size
        judged = m if m < 2 * PROJECTIONS else PROJECTIONS  # outputs
        if self.as_matrix(n):
            return wide_or_double(n, RIDGE_SOLVES * (k**3 / 3 + 4.0 * k * k * judged))
        half = self.tokens / 2
        return Work(
            single=3.0 * half * half * k, double=RIDGE_SOLVES * (half**3 / 3 + 4.0 * half**2 * judged)
        )

    def error(self, n: int, m: int) -> Work:
        """Two sums of squares with which the solve ends: the error, and what it is in proportion to."""
        rows = n if self.as_matrix(n) else self.tokens
        return Work(single=4.0 * rows * n * m)


def wide_or_double(n: int, operations: float) -> Work:
    """Operations on a matrix of n rows and columns, which are done in float64 unless it is wide."""
    return Work(single=operations) if n >= SINGLE_PRECISION_INPUTS else Work(double=operations)


@dataclass(frozen=True)
class Machine:
    """What this computer does in a second, with torch's present threads: rates by the names of `Work`."""

    model: float
    single: float
    double: float
    read: float
    written: float

    @classmethod
    def measured(cls, hidden: int, neurons: int, folder: Path, dtype: torch.dtype = torch.float32) -> Machine:
        """At the shapes of a layer of a model in `dtype`; a file lies in `folder` for a moment."""
        width = min(neurons, MATRIX_WIDTH)
        rates = [
            product_rate(hidden, width, precision) for precision in (dtype, torch.float32, torch.float64)
        ]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            file = Path(temporary, "piece")
            written = PIECE / best_time(lambda: _write(file))
            read = PIECE / best_time(file.read_bytes)
        return cls(*rates, read, written)

    def seconds(self, work: Work) -> float:
        """The least time for `work`, one kind after the other."""
        rates = asdict(self)
        return sum(amount / rates[kind] for kind, amount in asdict(work).items())


def product_rate(hidden: int, width: int, dtype: torch.dtype) -> float:
    """Operations a second of BATCH_TOKENS tokens that pass a matrix of a layer."""
    tokens = torch.randn(BATCH_TOKENS, hidden).to(dtype)
    inputs = torch.randn(hidden, width).to(dtype)
    return 2.0 * BATCH_TOKENS * hidden * width / best_time(lambda: tokens @ inputs)


def best_time(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the quickest of a few times."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return max(min(seconds), 1e-9)


def _write(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write(bytes(PIECE))
        stream.flush()
        os.fsync(stream.fileno())


def least(row: dict) -> float:
    """The least seconds stored with a row: as one number, or in older rows by phase."""
    if isinstance(row["least"], float):
        return row["least"]
    return sum(row["least"].values())


def stored_rows() -> list[dict]:
    """All rows of measured runs that say what the least was."""
    rows = []
    for file in ("scale.json", "long_text.json", "bfloat16.json"):
        rows += [row for row in read_json(HERE / file) if row.get("least")]
    return rows


def table(rows: list[dict]) -> list[str]:
    lines = [f"{'shape':8}{'layers':>7}{'tokens':>8}{'seconds':>10}{'at least':>10}{'ratio':>8}"]
    for row in rows:
        cells = f"{row['seconds']:>10.1f}{least(row):>10.1f}{row['seconds'] / least(row):>8.2f}"
        lines.append(f"{row['shape']:8}{row['layers']:>7}{row['tokens']:>8}{cells}")
    return lines


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, default=Path("build"), help="where a file is written and read")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    shapes = {"135m": (576, 1536)} | {name: (size.hidden, size.neurons) for name, size in SIZES.items()}
    gigaflops = {}
    for name, (hidden, neurons) in shapes.items():
        rates = {str(dtype).removeprefix("torch."): product_rate(hidden, neurons, dtype) for dtype in TYPES}
        gigaflops[name] = {dtype: round(rate / 1e9, 1) for dtype, rate in rates.items()}
    disk = Machine.measured(*shapes["135m"], arguments.work)
    row = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gigaflops": gigaflops,
        "read_megabytes_a_second": round(disk.read / 1e6),
        "written_megabytes_a_second": round(disk.written / 1e6),
    }
    write_json(HERE / "limit.json", row)
    print("\n".join(table(stored_rows())))


if __name__ == "__main__":
    main()
