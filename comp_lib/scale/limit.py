"""The least time in which this machine could do what a run has to do: a roofline.

A run must do some products, and read and write some bytes, whatever the program. `Run.work` counts them by phase from
the shapes alone, each product once, of a symmetric one half; `Machine` is what this computer does in a second of each
kind, measured in large pieces of the shapes that the model has. `least_seconds` divides one by the other. So the ratio
of a run's seconds to them says what is left to gain here, and no machine that is slower can be blamed for it.

Not counted: planning (block influence, measured widths), the elementwise work between two products, the system's calls.
Operations are additions and multiplications, two for each multiply-add. (Our count, tested against what torch counts.)
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..calibration.stream import BATCH_TOKENS
from ..plan import Plan
from ..prune_layer import form_of_sums
from ..recovery.least_squares import outputs_judged
from ..settings import Settings
from ..shape import Shape
from ..statistics.gram import Gram
from ..system.machine import finish

PIECE = 16 << 20  # bytes of a file, read or written to see how fast that is: more would show in the peak of a small run
WIDEST = 1024  # of the matrices that are multiplied to see how fast that is
WIDEST_ON_CARD = 4096  # where smaller ones would keep only a part of the device busy


@dataclass(frozen=True)
class Work:
    """What one phase has to do at least."""

    single: float = 0.0  # operations in float32
    double: float = 0.0  # operations in float64
    read: float = 0.0  # bytes
    written: float = 0.0  # bytes
    half: float = 0.0  # operations in the model's own half precision

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Run:
    """What decides how much work a run is."""

    shape: Shape  # of the parent
    plan: Plan
    settings: Settings
    sequences: int
    length: int  # tokens of each
    stored: int  # bytes of the parent's files
    saved: int  # bytes of a weight in the new ones
    state: int = 4  # bytes of a number in the hidden states

    @property
    def tokens(self) -> int:
        return self.sequences * self.length

    def work(self) -> dict[str, Work]:
        """What each phase has to do at least, by the names of `system.clock.PHASES`."""
        shape, total = self.shape, {name: Work() for name in ("attention", "MLP", "Gram", "selection", "solve")}
        places = {layer: place for place, layer in enumerate(self.plan.layers)}
        differs = False
        for layer in range(shape.layers):
            place = places.get(layer)
            for phase, whole, kept, block in (
                ("attention", shape.kv_groups[layer], self.plan.kv_groups, shape.head_dim * shape.group_heads),
                ("MLP", shape.neurons[layer], self.plan.neurons, 1),
            ):
                if self.settings.two_streams:
                    total[phase] += self._pass(phase, whole)
                if place is None:
                    differs = True
                    continue
                keep = kept[place]
                total[phase] += self._pass(phase, keep)
                retuned = phase == "MLP" and self.settings.two_streams and differs
                if keep and (keep < whole or retuned):
                    total[phase] += self._pass(phase, whole)
                    for name, work in self._dense_layer(whole * block, keep * block).items():
                        total[name] += work
                differs = differs or keep < whole
        moved = self.tokens * shape.hidden * self.state * (1 + self.settings.two_streams) * len(places)
        after = shape.total - self.plan.removed * (shape.decoder if self.plan.of == "decoder" else shape.total)
        return total | {"read": Work(read=self.stored), "write": Work(written=self.saved * after + moved)}

    def _pass(self, phase: str, width: int) -> Work:
        """All tokens through one residual step with `width` KV groups or neurons."""
        shape = self.shape
        if phase == "MLP":
            return self._products(2.0 * self.tokens * width * shape.neuron_parameters)
        queries = width * shape.group_heads * shape.head_dim
        scores = 2.0 * self.tokens * self.length * queries  # of each token with itself and those before it, twice
        return self._products(2.0 * self.tokens * width * shape.group_parameters + scores)

    def _products(self, operations: float) -> Work:
        """Those of the model itself, which are in the precision of its hidden states."""
        return Work(half=operations) if self.state == 2 else Work(single=operations)

    def _dense_layer(self, n: int, k: int) -> dict[str, Work]:
        """Sums, selection and solve of one dense layer of n inputs, of which k stay."""
        tokens, m, gone = self.tokens, self.shape.hidden, n - k
        fitted = self.settings.recovery == "least-squares"
        swept = fitted and self.settings.neuron_metric == "full-condition" and gone > 0
        judged = outputs_judged(m)
        tried = 3 if fitted and self.settings.ridge == "auto" and self.sequences > 1 else 0
        again = fitted and (self.settings.two_streams or not swept)  # else the sweep has solved it on its way
        # in both forms the solve ends with two sums of squares: the error, and what it is in proportion to
        if form_of_sums(self.settings, tokens, n) is Gram:
            target = 2.0 * tokens * n * m if self.settings.two_streams else 0.0
            sums = Work(single=float(tokens) * n * n + target)
            alive = (n + k) / 2  # on the mean over the sweep
            sweep = Work(double=float(n) ** 3 + gone * alive * (alive + 2.0 * m)) if swept else Work()
            solve = Work(double=(k**3 / 3 + 2.0 * k * k * m) * again + tried * (k**3 / 3 + 4.0 * k * k * judged))
            return {"Gram": sums, "selection": sweep, "solve": solve + Work(single=2.0 * 2.0 * n * n * m)}
        half = tokens / 2
        sweep = Work(single=float(tokens) ** 2 * n + 2.0 * gone * (n + k) / 2 * m) if swept else Work()
        if swept:
            rounds = 2.0 * tokens * tokens + 2.0 * tokens * (n + k) / 2 + tokens * tokens
            sweep += Work(double=float(tokens) ** 3 + float(tokens) ** 2 * n + gone * rounds)
        solve = Work(
            single=again * (tokens**2 * k + 2.0 * tokens * k * m) + (tried > 0) * 3.0 * half * half * k,
            double=again * (tokens**3 / 3 + 2.0 * tokens**2 * m) + tried * (half**3 / 3 + 4.0 * half**2 * judged),
        )
        return {"selection": sweep, "solve": solve + Work(single=2.0 * 2.0 * tokens * n * m)}


def least_seconds(run: Run, machine: Machine) -> dict[str, float]:
    """The least time of each phase of `run` on `machine`."""
    return {phase: machine.seconds(work) for phase, work in run.work().items()}


@dataclass(frozen=True)
class Machine:
    """What this computer does in a second, with the threads that torch has now, or the device that it computes on.

    What goes to a device and comes back is not counted: a limit is the least.
    """

    single: float  # operations of float32 products
    double: float  # operations of float64 products
    read: float  # bytes of a file
    written: float  # bytes, until they are on the disk
    half: float | None = None  # operations of products in half precision; None: not asked for

    @classmethod
    def measured(
        cls, shape: Shape, files: list[Path], folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Machine:
        """Measure it at the shapes of a layer, whose products are made on `device`.

        files: of the model, to read; folder: to write a file in, for a moment; dtype: in which the model computes.
        Takes a second for the layers of a 7B model.
        """
        products = product_rates(shape, device)
        half = passing_rate(shape, device, dtype) if dtype.itemsize == 2 else None
        return cls(*products, *timed_disk(max(files, key=lambda file: file.stat().st_size), folder), half)

    def seconds(self, work: Work) -> float:
        """The least time for `work`, one kind after the other. Raises ValueError for half precision not asked for."""
        products = work.single / self.single + work.double / self.double
        if work.half:
            if self.half is None:
                raise ValueError("expected a machine measured in half precision, got one without: give its dtype")
            products += work.half / self.half
        return products + work.read / self.read + work.written / self.written


def product_rates(shape: Shape, device: str = "cpu") -> tuple[float, float]:
    """Operations a second on `device`: of float32 products at the shapes of a layer, and of float64 ones."""
    wide = _wide(shape, device)
    square = torch.randn(wide, wide, dtype=torch.float64, device=device)
    double = 2.0 * wide**3 / best_time(lambda: square @ square, device=device)
    return passing_rate(shape, device, torch.float32), double


def passing_rate(shape: Shape, device: str, dtype: torch.dtype) -> float:
    """Operations a second of tokens that pass a matrix of a layer, in `dtype` on `device`."""
    wide = _wide(shape, device)
    tokens = torch.randn(BATCH_TOKENS, shape.hidden, device=device).to(dtype)
    inputs = torch.randn(shape.hidden, wide, device=device).to(dtype)
    return 2.0 * BATCH_TOKENS * shape.hidden * wide / best_time(lambda: tokens @ inputs, device=device)


def _wide(shape: Shape, device: str) -> int:
    """Of the matrices that are multiplied to see how fast that is."""
    return min(max(shape.neurons), WIDEST if device == "cpu" else WIDEST_ON_CARD)


def timed_disk(path: Path, folder: Path) -> tuple[float, float]:
    """Bytes a second: of reading the first PIECE of a file, and of writing it to one in `folder` until it is there."""
    data = _read(path)
    return len(data) / best_time(lambda: _read(path)), len(data) / best_time(lambda: _write(folder, data))


def best_time(work: Callable[[], object], times: int = 3, device: str = "cpu") -> float:
    """Seconds of the quickest of a few times, until `device` has finished."""
    took = []
    for _ in range(times):
        finish(device)
        started = time.perf_counter()
        work()
        finish(device)
        took.append(time.perf_counter() - started)
    return max(min(took), 1e-9)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(PIECE)


def _write(folder: Path, data: bytes) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
