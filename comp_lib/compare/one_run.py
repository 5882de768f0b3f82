"""One run of a comparison, measured in a process of its own, which runs this module.

A fresh process knows its own peak memory, and one that is killed or crashes hurts no other (`cluster` is the other
side). The request says what model and texts must hold, since on another machine the same name may mean something else,
and which code asks, since other code computes something else.

Quality is the increase of the loss over the dense model, with a 95% interval from the paired bootstrap
(`evaluation.confidence`). It is taken window by window, since texts are not equally hard:

    d_i = loss_pruned(window i) - loss_dense(window i),     increase = mean_i d_i
"""

from __future__ import annotations

import json
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor

from .. import __version__
from ..calibration.stream import batches
from ..calibration.text import encode, load_text, opening
from ..calibration.tokens import calibration_tokens, needs_model, sources
from ..calibration.written import OPENINGS
from ..errors import InputError
from ..evaluation.by_kind import judge, windows_of
from ..evaluation.generation import measure_speed, ratio
from ..families import family_of
from ..families.protocol import Model
from ..models.load import load_model
from ..prune import prune
from ..settings import Settings
from ..system import hashes
from ..system.machine import finish, peak_bytes, resident_bytes
from ..system.processes import Message, serve

PROMPT, NEW_TOKENS, ROUNDS = 32, 16, 3  # of the decode speed


@dataclass(frozen=True)
class Common:
    """What all runs of a grid share, but for the settings that vary."""

    model: str
    _: KW_ONLY
    dtype: str = "float32"
    settings: Settings = Settings()
    calibration: str = "calibration"  # name or path of a text, or "self"
    length: int = 256  # tokens in each sequence of it
    evaluation: str = "evaluation"  # name or path of a text, or "kinds" for the mean over all kinds
    windows: int = 12
    window: int = 512  # tokens in each


@dataclass(frozen=True)
class Run(Common):
    """All that decides the outcome of one run."""

    sequences: int  # of calibration text


def this_code() -> str:
    """A hash of all the code that decides what is measured."""
    return hashes.of_code("compare", "evaluation")


@dataclass(frozen=True)
class RunRequest:
    """A run as it travels to the process that measures it."""

    run: Run
    contents: dict[str, str]  # see `contents`
    check: bool = False  # only whether this machine has all that it takes
    code: str = field(default_factory=this_code)  # of the process that asks

    @classmethod
    def from_message(cls, message: Message) -> RunRequest:
        """The inverse of `asdict`."""
        run = message["run"]
        return cls(**message | {"run": Run(**run | {"settings": Settings(**run["settings"])})})

    def answer(self) -> Message:
        """What was measured; nothing when only to check. Raises InputError when this machine lacks something."""
        if self.code != this_code():
            wanted = f"comp-lib {__version__} with the code {self.code}, as on the machine that asks"
            got = f"{this_code()} on {socket.gethostname()}: install the same there and start the command again"
            raise InputError(f"expected {wanted}, got {got}")
        if not self.check:
            return measure(self.run, self.contents)
        check_contents(self.run, *load_model(self.run.model, self.run.dtype), self.contents)
        return {}


def contents(run: Run, model: Model, tokenizer: Any) -> dict[str, str]:
    """What the run's three names mean here: hashes of the tensors of `model`, and of both texts in its tokens."""
    asked = f"{' '.join(OPENINGS)} {getattr(tokenizer, 'chat_template', None)}"  # what the model writes begins with
    parts = [f"{part} {asked}" if needs_model(part) else load_text(part) for part in sources(run.calibration)]

    def cut(*texts: str) -> str:
        return hashes.of_tensor(torch.cat([opening(tokenizer), *(encode(tokenizer, text) for text in texts)]))

    texts = {"calibration": cut(*parts), "evaluation": cut(load_text(run.evaluation))}
    return {"model": hashes.of_model(model)} | texts


def check_contents(run: Run, model: Model, tokenizer: Any, expected: dict[str, str]) -> None:
    """Raises InputError where a name means another thing on this machine than on the one that asks."""
    for what, value in contents(run, model, tokenizer).items():
        if value != expected[what]:
            wanted = f"the same {what} {getattr(run, what)!r} on {socket.gethostname()} as on the machine that asks"
            raise InputError(f"expected {wanted}, got another content: copy it there, to the same path")


def measure(run: Run, expected: dict[str, str]) -> Message:
    """Prune and judge. Peak memory is that of this process above what it holds now: call it once, in a fresh one.

    Raises InputError when model and texts are not the `expected` contents.
    """
    imports = resident_bytes()
    model, tokenizer = load_model(run.model, run.dtype)
    windows = windows_of(run.evaluation, tokenizer, run.window, run.windows)
    size: dict[str, Any] = {"sequences": run.sequences, "length": run.length, "seed": run.settings.seed}
    ids = calibration_tokens(run.calibration, tokenizer, model=model, **size, evaluated=run.evaluation)
    before = decoder_parameters(model)
    started = time.perf_counter()
    small = prune(model, ids, run.settings, name=run.model, inplace=True).model
    seconds = time.perf_counter() - started
    peak = peak_bytes() - imports
    del model
    dense, _ = load_model(run.model, run.dtype)
    check_contents(run, dense, tokenizer, expected)  # reads all of the model, so not before the peak is known
    unit = dense_pass(dense, ids)
    dense_speed, speed = measure_speed([dense, small], next(iter(windows.values()))[:1, :PROMPT], NEW_TOKENS, ROUNDS)
    parameters = sum(map(Tensor.numel, small.parameters()))
    sizes = {"removed": 1 - decoder_parameters(small) / before, "parameters": parameters}
    effort = {"seconds": seconds, "passes": seconds / unit, "peak_megabytes": peak / 2**20}
    times = {"decode_ms": 1000 / median(speed.decode), "dense_decode_ms": 1000 / median(dense_speed.decode)}
    times["decode_ratio"] = ratio(dense_speed.decode, speed.decode)[0]  # of the times, so upside down
    libraries = f"torch {torch.__version__}, transformers {transformers.__version__}"
    versions = f"comp-lib {__version__}, {libraries}, Python {platform.python_version()}"
    place = {"threads": torch.get_num_threads(), "versions": versions}
    return quality(small, dense, windows) | sizes | effort | times | place


def quality(small: Model, dense: Model, windows: Mapping[str, Tensor]) -> Message:
    """Losses, their difference with its interval, KL and top-1 agreement, as the mean over the texts' windows (S, L).

    Of several texts "kinds" holds the increase on each, with its interval, as JSON.
    """
    judged = judge(small, windows, dense, tuple(windows))
    each = {name: [one.increase, *one.intervals()["increase"]] for name, one in judged.kinds.items()}
    if len(each) == 1:
        [(_, low, high)] = each.values()
        return judged.mean | {"increase_low": low, "increase_high": high, "kinds": None}
    low, high = judged.intervals()["increase"]
    return judged.mean | {"increase_low": low, "increase_high": high, "kinds": json.dumps(each)}


def decoder_parameters(model: Model) -> int:
    """Counted from the tensors, whatever a method made of the layers."""
    return sum(parameter.numel() for parameter in family_of(model).layers(model).parameters())


@torch.inference_mode()
def dense_pass(model: Model, ids: Tensor) -> float:
    """Seconds of one forward pass over `ids` (S, L), logits included, after a first touch that reads the weights."""
    model(input_ids=ids[:1], use_cache=False)
    finish(ids.device)
    started = time.perf_counter()
    for rows in batches(*ids.shape):
        model(input_ids=ids[rows], use_cache=False)
    finish(ids.device)
    return time.perf_counter() - started


if __name__ == "__main__":
    serve(lambda messages: (RunRequest.from_message(message).answer() for message in messages))
