"""The options of a call of `prune_model`, checked, and the amount of text where nobody says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ...calibration.in_memory import Source
from ...calibration.mixtures import MIXTURES, WRITTEN, shares_of
from ...calibration.windows import Calibration
from ...decoder.shape import Shape
from ...pruning.checks import checked_settings
from ...pruning.methods import method_of
from ...pruning.settings import (
    DEFAULTS,
    MAX_TOKENS,
    PRESET_TABLE,
    PRESETS,
    TOKENS_PER_NEURON,
    CompleteSettings,
    MethodChanges,
    PresetName,
    Settings,
    usual_preset,
)
from ...utils.errors import InputError
from ...utils.machine import available_device
from ..gguf.write import GgufType
from ..load import DtypeName


@dataclass(frozen=True)
class RunOptions:
    """Options of a call of `prune_model`, checked."""

    settings: Settings
    """The settings of the run; with at_most their ratio is SMALLEST_RATIO until one is found."""
    calibration: Calibration
    """Text that calibrates."""
    preset: PresetName
    """A key of PRESETS; the one of the method where none was given."""
    judged_on: Source | None
    """Text that judges; None: nothing is measured."""
    dtype: DtypeName
    """Dtype to compute in."""
    at_most: float | None
    """Nats per token that the loss may rise."""
    changes: MethodChanges
    """The settings that the caller gave."""

    @property
    def needs_model(self) -> bool:
        """Whether the model must be in memory: to write text, for gradients, or while a ratio is sought."""
        writes = not WRITTEN.keys().isdisjoint(shares_of(self.calibration.source))
        return writes or self.at_most is not None or self.needs_gradients

    @property
    def needs_gradients(self) -> bool:
        """Whether the method plans by gradients."""
        return method_of(self.settings.method).needs_gradients

    @property
    def copies(self) -> int:
        """The number of copies of the model that must fit in memory."""
        if self.needs_gradients:
            return 3
        return 1 if self.at_most is None else 2


@dataclass(frozen=True)
class FittedOptions(RunOptions):
    """Options of a call, fitted to the model: what the method or its size decides is decided."""

    settings: CompleteSettings
    gguf_type: GgufType | None = None
    """Type of the matrices of a GGUF file; None: a folder is made."""

    @property
    def token_count(self) -> int:
        """How many tokens calibrate."""
        return (self.calibration.sequences or 0) * self.calibration.length


def checked_options(
    *,
    settings: Settings | None,
    ratio: float | None,
    at_most: float | str | None,
    preset: PresetName | None,
    calibration: Calibration,
    judged_on: Source | None,
    changes: MethodChanges,
    device: str | None,
    dtype: DtypeName,
) -> RunOptions:
    """The options of a call, checked as far as that goes without the model.

    Raises InputError for arguments that mean nothing, alone or together.
    """
    wanted: dict[str, Any] = {**changes, "seed": calibration.seed}
    if device is not None:
        wanted["device"] = device
    if settings is not None:
        settings = checked_settings(settings)
        _check_nothing_beside_settings({**changes, "ratio": ratio, "preset": preset, "device": device})
        wanted = dict(vars(settings))
        changes = changes_of(settings)
    nats = None
    if at_most is not None:
        from .ratio_search import SMALLEST_RATIO, parse_nats

        nats = parse_nats(at_most)
        _check_beside_at_most(nats, ratio, judged_on)
        ratio = SMALLEST_RATIO
    wanted["device"] = str(available_device(wanted.get("device", DEFAULTS["device"]), double=True))
    if ratio is not None:
        wanted["ratio"] = ratio
    settings = Settings.preset(preset, **wanted)
    preset = preset or preset_of(settings)
    return RunOptions(settings, calibration, preset, judged_on, dtype, nats, changes)


def _check_nothing_beside_settings(fields: Mapping[str, object]) -> None:
    """Raises InputError where a caller gives `settings` and also some of their `fields`."""
    given = [name for name, value in fields.items() if value is not None]
    if given:
        raise InputError(
            expected="settings, or their fields as arguments",
            got=f"both, with {', '.join(given)}",
            hint="say it in the Settings alone",
        )


def _check_beside_at_most(at_most: float, ratio: float | None, judged_on: Source | None) -> None:
    """Raises InputError for a ratio beside `at_most`, which finds one, and where no text judges."""
    if ratio is not None:
        raise InputError(
            expected="ratio or at_most", got=f"{ratio} and {at_most:g}", hint="leave one of them out"
        )
    if judged_on is None:
        raise InputError(
            expected="a text that judges, for at_most",
            got="none",
            hint="name a text, or let every kind of text judge",
        )


def preset_of(settings: Settings) -> PresetName:
    """The preset whose settings these are; where there is none, the usual one of the method."""
    values = vars(settings.completed())
    names: list[PresetName] = [
        name for name in get_args(PresetName) if PRESETS[name].items() <= values.items()
    ]
    return names[0] if names else usual_preset(settings.method)


def changes_of(settings: Settings) -> MethodChanges:
    """The fields of `settings` that say how, as far as they differ from those of `Settings()`."""
    usual = Settings()
    changes = MethodChanges()
    for name in MethodChanges.__annotations__:
        value = getattr(settings, name)
        if value != getattr(usual, name):
            changes[name] = value  # type: ignore[literal-required]
    return changes


def usual_sequences(shape: Shape, preset: str, calibration: Calibration) -> int:
    """The number of sequences that calibrate where nobody says it.

    A mixture of texts gives TOKENS_PER_NEURON tokens for each neuron, where that is more, but at most
    MAX_TOKENS.
    """
    usual = PRESET_TABLE[preset].sequences
    if calibration.source not in MIXTURES:
        return usual
    tokens = max(TOKENS_PER_NEURON * max(shape.neurons), usual * calibration.length)
    return math.ceil(min(tokens, MAX_TOKENS) / calibration.length)
