"""Checks for the exercises of lesson 9: a run that survives a kill, a refit without a large matrix, a budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from checking import Wrong, accept, alike, call, check_shape, spot
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MIB = 2**20


class Killed(BaseException):
    """No `except Exception` of a learner catches it, as nothing catches a kill."""


class Disk:
    """Files and a journal. It is killed in the middle of its operation number `kill`, which leaves half a file."""

    def __init__(self, written: Collection[str] = ()) -> None:
        """written: the names of files that an undisturbed run writes."""
        self.files: dict[str, Any] = {}
        self.written = written
        self.torn: dict[str, bool] = {}  # name -> whether a good file of that name was there before
        self.lines, self.left = 0, -1

    def _operation(self) -> bool:
        self.left -= 1
        return self.left == -1

    def write(self, name: str, value: Any) -> None:
        """Write a file; what was there under that name is gone."""
        if self._operation():
            self.torn[name] = name in self.files
            raise Killed
        self.torn.pop(name, None)
        self.files[name] = value

    def read(self, name: str) -> Any:
        """What is in a file."""
        if self.torn.get(name):
            raise Wrong(
                f"{name!r} was being overwritten when the run was killed, and the only good copy is gone: give the "
                "hidden states of each layer a name of their own"
            )
        if name in self.torn or (name not in self.files and name in self.written):
            raise Wrong(
                f"the journal promises {name!r}, but the kill came before it was written: note a layer last"
            )
        if name not in self.files:
            raise Wrong(
                f"there is no file {name!r}: what the next layer needs has to be written, before the layer is noted"
            )
        return self.files[name]

    def note(self) -> None:
        """Add a line to the journal: one more layer is done."""
        if self._operation():
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
        disk.left = kill
        calls.clear()
        try:
            call(finish, layers, 7, prune_layer, disk, returns=False)
        except Killed:
            return False
        return True

    whole = Disk()
    run(whole)
    want, hidden = {}, 7
    for index in range(layers):
        want[f"layer-{index}"], hidden = f"layer {index} for {hidden}", 3 * hidden + index
    if {name: whole.files.get(name) for name in want} != want:
        raise Wrong(
            f"expected the files {', '.join(want)} after an undisturbed run, got {', '.join(whole.files) or 'none'}"
        )
    if whole.lines != layers:
        raise Wrong(f"the journal has {whole.lines} lines after {layers} layers: note each layer once")
    for kill in _numbers():
        disk = Disk(whole.files)
        if run(disk, kill):
            run(disk)  # killed after its last operation: nothing is left to do
            break  # the run has no more operations than that
        noted = disk.lines
        run(disk)
        if noted and calls[:1] == [0]:
            raise Wrong(f"{noted} layers were done, and the next run began with layer 0: ask `disk.done()`")
        names = {name: disk.files.get(name) for name in want}
        if any(name in disk.torn for name in want):
            raise Wrong("half a layer was left behind by a kill and never made again: note a layer last")
        if names != want:
            raise Wrong(
                "after a kill other layers came out: go on with the states that it left, not with the first"
            )
    accept(
        f"killed in the middle of each of its {kill} operations, the run goes on and ends with the same files"
    )


def _numbers() -> Iterator[int]:
    yield from range(1000)


class Sizes(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else (result,)
        self.largest = max([self.largest, *(one.numel() for one in made if isinstance(one, Tensor))])
        return result


def check_dual_refit(dual_refit: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """Exercise 2."""
    generator = torch.Generator().manual_seed(9)
    x = (
        torch.randn(12, 300, generator=generator, dtype=torch.float64)
        * torch.linspace(0.5, 2.0, 300).double()
    )
    w = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    kept = torch.arange(300)[torch.arange(300) % 4 != 1]
    gone = torch.arange(300)[torch.arange(300) % 4 == 1]
    xk, ridge, eye = x[:, kept], 0.2, torch.eye(12, dtype=torch.float64)
    with Sizes() as sizes:
        got = call(dual_refit, x.clone(), w.clone(), kept, ridge)
    check_shape("V_K", got, (len(kept), 3))

    def answer(held: Tensor, target: Tensor, start: Tensor) -> Tensor:
        return start + (xk / held).T @ torch.linalg.solve(eye + (xk / held) @ xk.T, target)

    energy, missing = xk.square().sum(0), x[:, gone] @ w[gone]
    own = ridge * energy
    inner = xk.T @ xk
    pull = torch.diag(own)
    want = torch.linalg.solve(inner + pull, xk.T @ (x @ w) + pull @ w[kept])
    if not alike(got, want):
        spot(got, answer(energy, missing, w[kept]), "lambda does nothing yet: D_ii = lambda C_ii")
        for mean in (energy.mean(), x.square().sum(0).mean()):
            spot(
                got,
                answer((ridge * mean).expand(len(kept)), missing, w[kept]),
                "one D for all: it is each input's *own* energy",
            )
        spot(
            got,
            answer(own, x @ w, w[kept]),
            "fit what the kept neurons leave open, X W - X_K W_K, not all of X W",
        )
        spot(
            got,
            answer(own, x @ w, torch.zeros_like(w[kept])),
            "the ridge draws the weights to 0: start from W_K",
        )
        spot(
            got,
            answer(own, missing, torch.zeros_like(w[kept])),
            "this is the change of the weights: W_K is missing",
        )
        raise Wrong("not what least squares finds: compare with the n x n solve on a small X")
    if sizes.largest >= len(kept) ** 2:
        raise Wrong(
            f"right, but on the way there is a tensor of {sizes.largest:,} numbers: nothing n x n, only T x T"
        )
    most = f"no tensor had more than {sizes.largest:,} numbers, where C_KK has {len(kept) ** 2:,}"
    accept(f"the fit is that of least squares, and {most}")


def check_most_tokens(most_tokens: Callable[[int, int, int, int], int]) -> None:
    """Exercise 3."""

    def held(tokens: int, layer: int, hidden: int, neurons: int, form: str = "smaller") -> int:
        forms = {"C": 8 * neurons**2, "dual": 8 * tokens**2 + 4 * tokens * neurons}
        return 4 * layer + 4 * tokens * hidden + forms.get(form, min(forms.values()))

    def most(budget: int, *shape: int, form: str = "smaller") -> int:
        tokens = -1
        for step in (2**power for power in range(24, -1, -1)):
            while held(tokens + step, *shape, form=form) <= budget:
                tokens += step
        return max(0, tokens)

    cases = {
        "SmolLM2-135M in 32 MiB": (32 * MIB, 3_540_096, 576, 1536),
        "SmolLM2-135M in 34.5 MiB": (69 * MIB // 2, 3_540_096, 576, 1536),
        "SmolLM2-135M in 100 MiB": (100 * MIB, 3_540_096, 576, 1536),
        "a layer of LLaMA-2 7B in 1 GiB": (2**30, 202_383_360, 4096, 11008),
        "the same in 4 GiB": (2**32, 202_383_360, 4096, 11008),
    }
    for name, case in cases.items():
        got, want = call(most_tokens, *case), most(*case)
        if isinstance(got, bool) or not isinstance(got, int):
            raise Wrong(f"expected a whole number of tokens, got {got!r}")
        if got == want:
            continue
        budget, layer, *rest = case
        for form, words in (("C", "C"), ("dual", "the tokens")):
            if got == most(*case, form=form):
                raise Wrong(f"{name}: this holds {words} whatever T is; take the smaller of the two forms")
        if got == most(budget, layer // 4, *rest):
            raise Wrong(f"{name}: a parameter is not a byte: the layer takes 4 bytes for each")
        if got in (want + 1, want - 1):
            raise Wrong(
                f"{name}: next to it, {got:,}: the last number of tokens that still fits is asked for"
            )
        side = "more than fits" if got > want else "fewer than fit"
        raise Wrong(
            f"{name}: {got:,} tokens are {side}: layer, hidden states and sums together are within the budget"
        )
    accept("layer, hidden states and the smaller form of the sums fit, and one token more would not")
