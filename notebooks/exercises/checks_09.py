"""Checks for the exercises of lesson 9: a run that is killed, a refit without large matrices, a budget."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from course.checking import Wrong, accept, alike, call, check_shape, spot

MIB = 2**20


class Killed(BaseException):
    """No `except Exception` of a learner catches it, as nothing catches a kill."""


class Disk:
    """Files and a journal. A kill interrupts one operation, and leaves half a file if it was a write."""

    def __init__(self, written: Collection[str] = ()) -> None:
        """written: the names of files that an undisturbed run writes."""
        self.files: dict[str, Any] = {}
        self.written = written
        self.torn: dict[str, bool] = {}  # name -> whether a good file of that name was there before
        self.lines = 0  # of the journal
        self.operations_left = -1  # that succeed before the one that is killed; negative: none is killed

    def _is_killed(self) -> bool:
        """Counts an operation, and says whether it is the one to be killed."""
        self.operations_left -= 1
        return self.operations_left == -1

    def write(self, name: str, value: Any) -> None:
        """Writes a file in the place of what had that name."""
        if self._is_killed():
            self.torn[name] = name in self.files
            raise Killed
        self.torn.pop(name, None)
        self.files[name] = value

    def read(self, name: str) -> Any:
        """What is in a file."""
        if self.torn.get(name):
            raise Wrong(
                f"{name!r} was being overwritten when the run was killed, and the only good copy is gone: "
                "give the hidden states of each layer a name of their own"
            )
        if name in self.torn or (name not in self.files and name in self.written):
            raise Wrong(
                f"the journal promises {name!r}, but the kill came before it was written: note a layer last"
            )
        if name not in self.files:
            raise Wrong(
                f"there is no file {name!r}: what the next layer needs has to be written, "
                "before the layer is noted"
            )
        return self.files[name]

    def note(self) -> None:
        """Adds a line to the journal: one more layer is done."""
        if self._is_killed():
            raise Killed
        self.lines += 1

    def done(self) -> int:
        """How many layers the journal names."""
        return self.lines


def check_finish(finish: Callable[..., None]) -> None:
    """Exercise 1."""
    layers = 4
    calls: list[int] = []

    def prune_layer(index: int, hidden: int) -> tuple[str, int]:
        if len(calls) > 50:
            raise Wrong("a layer was pruned fifty times and the loop goes on")
        calls.append(index)
        return f"layer {index} for {hidden}", 3 * hidden + index

    def run(disk: Disk, kill: int = -1) -> bool:
        """Runs the learner's loop, and says whether it came to its end. kill: the operation to interrupt."""
        disk.operations_left = kill
        calls.clear()
        try:
            call(finish, layers, 7, prune_layer, disk, returns=False)
        except Killed:
            return False
        return True

    undisturbed = Disk()
    run(undisturbed)
    expected = {}
    hidden = 7
    for index in range(layers):
        expected[f"layer-{index}"] = f"layer {index} for {hidden}"
        hidden = 3 * hidden + index
    if {name: undisturbed.files.get(name) for name in expected} != expected:
        names = ", ".join(undisturbed.files) or "none"
        raise Wrong(f"expected the files {', '.join(expected)} after an undisturbed run, got {names}")
    if undisturbed.lines != layers:
        raise Wrong(f"the journal has {undisturbed.lines} lines after {layers} layers: note each layer once")
    for kill in range(1000):  # more than a run has operations
        disk = Disk(undisturbed.files)
        if run(disk, kill):
            run(disk)  # killed after its last operation: nothing is left to do
            break  # the run has no more operations than that
        layers_done = disk.lines
        run(disk)
        if layers_done and calls[:1] == [0]:
            raise Wrong(
                f"{layers_done} layers were done, and the next run began with layer 0: ask `disk.done()`"
            )
        if any(name in disk.torn for name in expected):
            raise Wrong("half a layer was left behind by a kill and never made again: note a layer last")
        if {name: disk.files.get(name) for name in expected} != expected:
            raise Wrong(
                "after a kill other layers came out: go on with the states that it left, not with the first"
            )
    accept(
        f"killed in the middle of each of its {kill} operations, the run goes on and ends with the same files"
    )


class Sizes(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else (result,)
        for value in results:
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def check_dual_refit(dual_refit: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """Exercise 2."""
    generator = torch.Generator().manual_seed(9)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x = draw(12, 300) * torch.linspace(0.5, 2.0, 300).double()
    w = draw(300, 3)
    is_removed = torch.arange(300) % 4 == 1
    kept = torch.arange(300)[~is_removed]
    removed = torch.arange(300)[is_removed]
    x_kept = x[:, kept]
    w_kept = w[kept]
    ridge = 0.2
    with Sizes() as sizes:
        answer = call(dual_refit, x.clone(), w.clone(), kept, ridge)
    check_shape("V_K", answer, (len(kept), 3))

    def refit(penalties: Tensor, target: Tensor, anchor: Tensor) -> Tensor:
        """The anchor (k, 3), and the change of it (k, 3) that adds the target (12, 3)."""
        scaled = x_kept / penalties
        eye = torch.eye(12, dtype=torch.float64)
        return anchor + scaled.T @ torch.linalg.solve(eye + scaled @ x_kept.T, target)

    energy = x_kept.square().sum(0)
    penalties = ridge * energy
    output = x @ w
    lost_output = x[:, removed] @ w[removed]
    zeros = torch.zeros_like(w_kept)
    penalty = torch.diag(penalties)
    right = torch.linalg.solve(x_kept.T @ x_kept + penalty, x_kept.T @ output + penalty @ w_kept)
    if not alike(answer, right):
        spot(answer, refit(energy, lost_output, w_kept), "lambda does nothing yet: D_ii = lambda C_ii")
        for mean in (energy.mean(), x.square().sum(0).mean()):
            mean_penalties = (ridge * mean).expand(len(kept))
            spot(
                answer,
                refit(mean_penalties, lost_output, w_kept),
                "one D for all: it is each input's *own* energy",
            )
        spot(
            answer,
            refit(penalties, output, w_kept),
            "fit what the kept neurons leave open, X W - X_K W_K, not all of X W",
        )
        spot(
            answer,
            refit(penalties, output, zeros),
            "the ridge draws the weights to 0: start from W_K",
        )
        spot(
            answer,
            refit(penalties, lost_output, zeros),
            "this is the change of the weights: W_K is missing",
        )
        raise Wrong("not what least squares finds: compare with the n x n solve on a small X")
    if sizes.largest >= len(kept) ** 2:
        raise Wrong(
            f"right, but on the way there is a tensor of {sizes.largest:,} numbers: nothing n x n, only T x T"
        )
    accept(
        f"the fit is that of least squares, and no tensor had more than {sizes.largest:,} numbers, "
        f"where C_KK has {len(kept) ** 2:,}"
    )


def _bytes_held(tokens: int, layer: int, hidden: int, neurons: int, form: str) -> int:
    """Bytes of a layer of so many parameters, of its hidden states, and of its sums.

    form: of the sums: "C", "dual", or "smaller", which is the one of these that takes less.
    """
    forms = {"C": 8 * neurons**2, "dual": 8 * tokens**2 + 4 * tokens * neurons}
    forms["smaller"] = min(forms.values())
    return 4 * layer + 4 * tokens * hidden + forms[form]


def _largest_count(budget: int, *shape: int, form: str = "smaller") -> int:
    """The largest number of tokens with which `_bytes_held` is within the budget; 0 where none is."""
    tokens = -1
    for power in range(24, -1, -1):
        step = 2**power
        while _bytes_held(tokens + step, *shape, form=form) <= budget:
            tokens += step
    return max(0, tokens)


def check_most_tokens(most_tokens: Callable[[int, int, int, int], int]) -> None:
    """Exercise 3."""

    cases = {
        "SmolLM2-135M in 32 MiB": (32 * MIB, 3_540_096, 576, 1536),
        "SmolLM2-135M in 34.5 MiB": (69 * MIB // 2, 3_540_096, 576, 1536),
        "SmolLM2-135M in 100 MiB": (100 * MIB, 3_540_096, 576, 1536),
        "a layer of LLaMA-2 7B in 1 GiB": (2**30, 202_383_360, 4096, 11008),
        "the same in 4 GiB": (2**32, 202_383_360, 4096, 11008),
    }
    for name, case in cases.items():
        answer = call(most_tokens, *case)
        right = _largest_count(*case)
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise Wrong(f"expected a whole number of tokens, got {answer!r}")
        if answer == right:
            continue
        for form, contents in (("C", "C"), ("dual", "the tokens")):
            if answer == _largest_count(*case, form=form):
                raise Wrong(f"{name}: this holds {contents} whatever T is; take the smaller of the two forms")
        budget, layer, hidden, neurons = case
        if answer == _largest_count(budget, layer // 4, hidden, neurons):
            raise Wrong(f"{name}: a parameter is not a byte: the layer takes 4 bytes for each")
        if answer in (right + 1, right - 1):
            raise Wrong(
                f"{name}: next to it, {answer:,}: the last number of tokens that still fits is asked for"
            )
        side = "more than fits" if answer > right else "fewer than fit"
        raise Wrong(
            f"{name}: {answer:,} tokens are {side}: "
            "layer, hidden states and sums together are within the budget"
        )
    accept("layer, hidden states and the smaller form of the sums fit, and one token more would not")
