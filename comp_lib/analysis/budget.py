"""How much of a check-up fits into the minutes that were given, and what is left out.

The machine is asked first: seconds for a token of a forward pass, and for the algebra of one layer. From these follows
what each part of a check-up would take; parts are added in an order of worth (UPGRADES) while they fit. What does not
fit is named, with the minutes that it would have taken. The predictions are rough: they are for choosing, not to be
believed to the minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ..calibration.stream import embed, rotary, through, to_device
from ..families import family_of
from ..families.protocol import Device, Model
from ..scale.limit import best_time
from ..shape import Shape
from ..statistics.solve import spd_inverse
from .one_pass import POINTS

TRIED = 512  # inputs of the matrix that is inverted to see how fast the machine is
SWEEP = 9.0  # of one layer's algebra (inverses, spectra, removals), in inversions of its matrix
PRUNED = 6.0  # of the algebra of pruning one layer (two halves, the search for a ridge), in inversions
SPEED = 4.0  # of timing two models, in passes over TIMED tokens
TIMED = 200
TASK_TOKENS = 900  # for each item of a task that is asked for: two models, five items in all, three answers of 30
SHARE = 0.8  # of the minutes that may be planned: predictions are rough


@dataclass(frozen=True)
class Speed:
    """What this machine takes, in seconds."""

    token: float  # of a token through all layers
    inversion: float  # of an (n, n) matrix, n being the width of the widest MLP


@dataclass(frozen=True)
class Effort:
    """How much is looked at."""

    windows: int = 1  # of each kind, that the statistics see and pruning is fitted to
    length: int = 128  # tokens of each
    judged: int = 0  # of these windows, in all, on which harm is measured; 0: it is not
    steps: bool = False  # harm of attention and MLP apart
    greedy: int = 0  # rounds of greedy removal
    ratios: tuple[float, ...] = ()  # at which pruning is tried
    ways: tuple[str, ...] = ("uniform",)
    kind_windows: int = 2  # of each kind, that judge
    kind_length: int = 64
    latency: bool = False
    tasks: int = 0  # items of an offline task, see `task_frame`
    left_out: tuple[tuple[str, float], ...] = ()  # what did not fit, and the minutes that it would take
    predicted: Mapping[str, float] = field(default_factory=dict)  # part -> seconds


@torch.no_grad()
def measure_machine(model: Model, device: Device = "cpu") -> Speed:
    """Times one layer on 256 tokens, and one inversion."""
    layers, shape = family_of(model).layers(model), Shape.of(model)
    length = min(128, model.config.max_position_embeddings)
    ids = torch.arange(2 * length).reshape(2, length) % 64
    hidden, layer = embed(model, ids), to_device(layers[0], device)
    rope = rotary(model, length, device, hidden.dtype)
    through(layer, hidden, rope, device)
    one = best_time(lambda: through(layer, hidden, rope, device), device=str(device)) / ids.numel()
    width = max(shape.neurons)
    side = min(width, TRIED)
    matrix = torch.eye(side, dtype=torch.float64, device=device) + 0.5
    inversion = best_time(lambda: spd_inverse(matrix.clone()), device=str(device)) * (width / side) ** 3
    return Speed(one * shape.layers, inversion)


def predict(effort: Effort, speed: Speed, shape: Shape, kinds: int) -> dict[str, float]:
    """Seconds of each part, for so many kinds of text."""
    tokens = kinds * effort.windows * effort.length
    judged = effort.judged * effort.length
    evaluated = kinds * effort.kind_windows * effort.kind_length
    head = 1.0 + shape.other_parameters / max(shape.decoder, 1)
    # with fewer tokens than neurons the dual form works on smaller matrices, and its spectrum has one matrix only
    smaller = min(1.0, (tokens / max(shape.neurons)) ** 1.5)
    algebra = speed.inversion * shape.layers * smaller
    passes = judged * speed.token * shape.layers / 2
    plan = (
        3 * tokens * speed.token + PRUNED * algebra + 2 * head * evaluated * speed.token + SPEED * TIMED * speed.token
    )
    measured = plan + SWEEP * algebra + min(tokens / 2, 2048) * speed.token * shape.layers / 2
    plans = sum(measured if way == "measured" else plan for way in effort.ways) * len(effort.ratios)
    return {
        "layers, neurons, groups and spectra": 2 * tokens * speed.token + SWEEP * algebra,
        "harm of layers": passes * (1 + 2 * effort.steps + effort.greedy),
        "loss by kind": plans,
        "speed": 6 * POINTS * TIMED * speed.token / 4 if effort.latency else 0.0,
        "tasks": effort.tasks * TASK_TOKENS * head * speed.token + (plan if effort.tasks else 0.0),
    }


def fit(minutes: float, speed: Speed, shape: Shape, asked: Effort, kinds: int) -> Effort:
    """As much of `asked` as these minutes allow, in the order of UPGRADES, from the least on that is worth while."""
    effort = Effort(length=asked.length, kind_length=asked.kind_length, ways=asked.ways[:1])
    left = []
    for what, name in UPGRADES:
        if getattr(effort, name) == getattr(asked, name):
            continue
        larger = _enlarged(effort, name, asked)
        seconds = sum(predict(larger, speed, shape, kinds).values())
        if seconds <= SHARE * 60 * minutes:
            effort = larger
        else:
            left.append((what, (seconds - sum(predict(effort, speed, shape, kinds).values())) / 60))
    return replace(effort, left_out=tuple(left), predicted=predict(effort, speed, shape, kinds))


def _enlarged(effort: Effort, name: str, asked: Effort) -> Effort:
    """With one upgrade, and with the least of what it rests on."""
    few, wanted = min(asked.judged, FIRST_JUDGED), {name: getattr(asked, name)}
    if name == "ratios" and not effort.ratios:
        return replace(effort, ratios=asked.ratios[len(asked.ratios) // 2 :][:1])
    if name == "judged" and effort.judged == 0:
        return replace(effort, judged=few)
    if name in ("steps", "greedy"):
        return replace(effort, judged=effort.judged or few, **wanted)
    if name in ("ways", "tasks", "kind_windows"):
        return replace(effort, ratios=effort.ratios or asked.ratios[:1], **wanted)
    return replace(effort, **wanted)


FIRST_JUDGED = 8  # windows on which harm is measured, to begin with
# What is added first is worth most; a name may come twice, first in part.
UPGRADES = (
    ("loss by kind of text, measured at one ratio", "ratios"),
    ("harm of each layer on a few windows", "judged"),
    ("loss by kind of text at each ratio", "ratios"),
    ("the model of cost in time", "latency"),
    ("more windows that judge", "kind_windows"),
    ("more windows for the statistics", "windows"),
    ("other ways to spend the ratio, and the peer", "ways"),
    ("harm of attention and MLP apart", "steps"),
    ("tasks", "tasks"),
    ("harm of each layer on more windows", "judged"),
    ("greedy removal of layers", "greedy"),
)
