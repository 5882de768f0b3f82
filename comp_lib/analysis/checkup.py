"""A check-up of one checkpoint: what the cells of `notebooks/checkup.ipynb` ask, one method a section.

It opens the model, decides with `budget` how much of it all fits into the minutes, and gives the frames. A model that
does not fit in memory is read layer by layer; what needs the whole of it is then left out, by name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..calibration.stream import BATCH_TOKENS
from ..calibration.text import load_text
from ..errors import InputError
from ..evaluation.by_kind import ByKind, judge
from ..evaluation.loss import evaluation_tokens
from ..families import family_of
from ..families.protocol import Model
from ..models.load import COPIES, DTYPES, count_parameters, load_model
from ..plan import tuples
from ..prune import check_family
from ..scale.limit import Run
from ..scale.memory import added_bytes, probable_plan
from ..scale.model_on_disk import Streamed, open_streamed
from ..scale.prune_to import whole_model
from ..settings import Settings, multiple_of
from ..shape import Shape
from ..system.cache import remembered
from ..system.machine import free_memory
from . import differences, unit_frames
from .budget import Effort, fit, measure_machine
from .cost_frame import REFUSED, WAYS, costs, settings_for
from .latency_frame import latency
from .layer_frame import layers
from .meaning import tokens_of
from .parameters import Parameters
from .sample import draw
from .store import entry, fingerprint
from .task_frame import tasks

# what a check-up takes with all the time in the world
WHOLE = Effort(windows=6, judged=24, steps=True, greedy=3, kind_windows=8, latency=True, tasks=30)
TEXT = (128, 256)  # sequences and tokens of each that `comp-lib prune` calibrates on
PROMPTS = 3  # on which two models differ most, that are shown


@dataclass(frozen=True)
class Needed:
    """What a part of the check-up needs and did not get."""

    part: str
    why: str


def _frame(of: Callable[..., pd.DataFrame]) -> cached_property[pd.DataFrame]:
    """The frame that a function of `unit_frames` makes, at the first look."""
    return cached_property(lambda bench: of(bench.model, bench.sample, device=bench.parameters.device))


class Checkup:
    """Frames and facts of one model. `left_out`: what was not looked at, and why."""

    NAMES = tuple(Parameters.__dataclass_fields__)
    neurons, groups = _frame(unit_frames.neurons), _frame(unit_frames.groups)
    spectra, curves = _frame(unit_frames.spectra), _frame(unit_frames.curves)

    def __init__(self, parameters: Parameters) -> None:
        """Raises InputError: a parameter, a model that cannot be read, or two models that cannot be compared."""
        parameters.check()
        torch.manual_seed(parameters.seed)
        self.parameters = parameters
        self.streamed = _too_large(parameters.model, parameters.dtype)
        self.model, self.tokenizer = _opened(parameters.model, parameters, self.streamed)
        self.pair = self._paired() if parameters.against else None
        self.shape, self.family = Shape.of(self.model), family_of(self.model)
        check_family(self.model, Settings())
        self.length = min(128, self.model.config.max_position_embeddings)
        self.multiple = multiple_of(max(self.shape.neurons))
        self.ways, self.ratios, refused = self._feasible()
        self.left_out: list[Needed] = [*refused, *self._whole_model()]
        self.effort = self._effort()
        self.left_out += [
            Needed(what, f"about {minutes:.1f} minutes more than there are") for what, minutes in self.effort.left_out
        ]
        self.sample = draw(self.tokenizer, parameters.kinds, self.effort.windows, self.length, parameters.seed)

    @classmethod
    def of(cls, **values: Any) -> Checkup:
        """From the parameters by their names, as a notebook has them. Raises InputError as `Parameters.of`."""
        return cls(Parameters.of(values))

    def _paired(self) -> differences.Pair:
        name, against = self.parameters.model, self.parameters.against
        other, _ = _opened(against, self.parameters, self.streamed or _too_large(against, self.parameters.dtype))
        return differences.paired((name, self.model), (against, other))

    def _whole_model(self) -> list[Needed]:
        """What cannot be had of a model that is read layer by layer."""
        if not self.streamed:
            alone = self.pair is not None and not self.compared
            return [Needed("what two models say", "the second one does not fit into memory")] if alone else []
        why = "it needs the whole model in memory, and this one does not fit"
        return [Needed(part, why) for part in ("loss by kind of text", "tasks", "speed", "what two models say")]

    def _feasible(self) -> tuple[tuple[str, ...], tuple[float, ...], list[Needed]]:
        """The ways and ratios that can be carried out on this model, and those that cannot."""
        peer = (self.parameters.peer,) if self.parameters.peer else ()
        refused, ways, ratios = [], [], []
        for ratio in self.parameters.ratios:
            try:
                settings_for(self.model, "uniform", ratio, self.multiple)
                ratios.append(ratio)
            except InputError as error:
                refused.append(Needed(f"the ratio {ratio:g}", str(error)))
        for way in (*WAYS, *peer):
            try:
                for ratio in ratios:
                    settings_for(self.model, way, ratio, self.multiple)
                ways.append(way)
            except InputError as error:
                refused.append(Needed(f"pruning by {way}", str(error)))
        return tuple(ways), tuple(ratios), refused

    def _effort(self) -> Effort:
        """How much is looked at: what was decided once is kept, so that a check-up that was cut off goes on with it."""
        parameters, kinds = self.parameters, len(self.parameters.kinds)
        window = min(64, self.length)
        asked = replace(WHOLE, length=self.length, kind_length=window, ratios=self.ratios, ways=self.ways)
        asked = replace(asked, greedy=min(asked.greedy, self.shape.layers - 1))
        if self.streamed:
            asked = replace(asked, ratios=(), ways=("uniform",), latency=False, kind_windows=2, tasks=0)
        if importlib.util.find_spec("lm_eval") is None:
            self.left_out.append(Needed("tasks", "lm-eval is not installed: pip install 'comp-lib[evaluate]'"))
            asked = replace(asked, tasks=0)

        def decide() -> dict[str, Any]:
            speed = measure_machine(self.model, parameters.device)
            return asdict(fit(parameters.minutes, speed, self.shape, asked, kinds))

        key = [fingerprint(self.model), parameters.minutes, parameters.device, asdict(asked), kinds]
        return Effort(**tuples(remembered(entry("budget", "effort", *key), decide)))

    @property
    def name(self) -> str:
        """The model's name without the folders above it."""
        return Path(self.parameters.model).name or Path(self.parameters.model).resolve().name  # of "." too

    @cached_property
    def layers(self) -> pd.DataFrame:
        """The frame `layers`, as far as the minutes go."""
        effort = self.effort
        harm = ("layer", "steps")[: 1 + effort.steps] if effort.judged else ()
        judged = self.sample.first(effort.judged) if effort.judged else None
        greedy = effort.greedy if harm else 0
        return layers(self.model, self.sample, harm, greedy, judged, self.parameters.device)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """The frame `costs`; no rows where it was left out."""
        effort, device = self.effort, self.parameters.device
        frame = costs(self.model, self.sample, self.windows, effort.ratios, effort.ways, self.multiple, device)
        self.left_out += [Needed(plan, why) for plan, why in frame.attrs[REFUSED].items()]
        return frame

    def tasks(self, way: str, ratio: float) -> pd.DataFrame | None:
        """The frame `tasks` for one of the plans that were measured; None where it was left out."""
        if not self.effort.tasks:
            return None
        settings = settings_for(self.model, way, ratio, self.multiple, self.parameters.device, self.sample.seed)
        return tasks(self.model, self.tokenizer, self.sample, settings, f"{way} at {ratio:.0%}", self.effort.tasks)

    @cached_property
    def latency(self) -> pd.DataFrame | None:
        """The frame `latency`, None where it was left out."""
        return latency(self.model) if self.effort.latency else None

    @cached_property
    def windows(self) -> dict[str, Tensor]:
        """Of the evaluation text of each kind, (S, L): they judge."""
        effort = self.effort
        texts = {kind: load_text(f"evaluation:{kind}") for kind in self.parameters.kinds}
        size = (effort.kind_length, effort.kind_windows)
        return {kind: evaluation_tokens(self.tokenizer, text, *size) for kind, text in texts.items()}

    @property
    def compared(self) -> bool:
        """Whether there is a second model that can be asked for answers."""
        both = () if self.pair is None else (self.pair.first, self.pair.other)
        return bool(both) and not any(isinstance(one, Streamed) for one in both)

    def parts(self) -> tuple[list[float], list[float], float]:
        """Millions of parameters: of the attention and of the MLP of each layer, and outside the decoder."""
        shape = self.shape
        attention = [count * shape.group_parameters / 1e6 for count in shape.kv_groups]
        mlp = [count * shape.neuron_parameters / 1e6 for count in shape.neurons]
        return attention, mlp, shape.other_parameters / 1e6

    def megabytes(self, parameters: int) -> float:
        """What so many parameters weigh in the dtype of the model."""
        return parameters * DTYPES[self.parameters.dtype].itemsize / 1e6

    def pruning_megabytes(self, way: str, ratio: float) -> float:
        """What `comp-lib prune` will hold, about: a layer and its sums, or the whole model while that writes text.

        Gradients, for methods that ask for them, are as large as the model.
        """
        settings = settings_for(self.model, way, ratio, self.multiple)
        size = DTYPES[self.parameters.dtype].itemsize
        whole = self.shape.total * size
        if whole_model(settings):
            return 2 * whole / 1e6
        plan = probable_plan(self.shape, replace(settings, widths="uniform"))  # a search for widths is not counted
        run = Run(self.shape, plan, settings, *TEXT, stored=0, saved=size, state=size)
        return max(whole, added_bytes(run, BATCH_TOKENS)) / 1e6

    def redundant(self, most: int = 6) -> list[tuple[int, int]]:
        """(layer, neuron) of those whose neighbours stand in best for them, among those that write something."""
        frame = self.neurons
        loud = frame[frame.energy > 0.5 / frame.groupby("layer").energy.transform("size")]
        best = loud.sort_values("condition", ascending=False).head(most)
        return list(zip(best.layer.tolist(), best.neuron.tolist(), strict=True))

    def meaning(self, layer: int, neuron: int) -> pd.DataFrame:
        """The frame `tokens_of` of one neuron and two who stand in for it."""
        return tokens_of(self.model, self.tokenizer, self.sample, layer, [neuron], device=self.parameters.device)

    @cached_property
    def changed_layers(self) -> pd.DataFrame:
        """The frame `changed_layers`. Raises InputError without a second model."""
        pair = self._needed()
        return differences.changed_layers(pair.first, pair.other, self.sample, pair.plan, self.parameters.device)

    @cached_property
    def _judged(self) -> ByKind:
        pair = self._needed()
        return judge(pair.other, self.windows, pair.first)

    @cached_property
    def changed_kinds(self) -> pd.DataFrame:
        """The frame `changed_kinds`. Raises InputError without a second model."""
        return differences.changed_kinds(self._needed().first, self._judged, self.parameters.seed)

    @cached_property
    def changed_prompts(self) -> pd.DataFrame:
        """The frame `changed_prompts`. Raises InputError without a second model."""
        both = (self._needed().first, self._needed().other)
        return differences.changed_prompts(both, self.tokenizer, self.windows, self._judged, PROMPTS)

    def _needed(self) -> differences.Pair:
        if self.pair is None:
            raise InputError("expected a second checkpoint, got none: set the parameter against")
        return self.pair


def _too_large(name: str, dtype: str) -> bool:
    """Whether a model and its pruned copy do not fit in memory. Raises InputError for one that cannot be read."""
    return count_parameters(name) * DTYPES[dtype].itemsize * COPIES > free_memory()


def _opened(name: str, parameters: Parameters, streamed: bool) -> tuple[Model, Any]:
    if streamed:
        return open_streamed(name, parameters.dtype)
    return load_model(name, parameters.dtype, parameters.device)
