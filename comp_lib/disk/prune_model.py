"""From the name of a model to a smaller one in a folder, and a verdict on it: `comp-lib prune` in Python.

The pruned model is saved in the dtype of its parent. Where the parent is quantised it is saved in bfloat16,
as nearly all originals are. A number never takes more bytes than it was computed in.
"""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..calibration.shares import MIXTURES, WRITTEN, shares_of, text_hashes
from ..calibration.texts import EVERY_KIND
from ..calibration.windows import Calibration, windows_of
from ..errors import InputError, suggestion
from ..families.protocol import Model
from ..families.table import family_of
from ..methods import default_recovery, method_of
from ..models.load import load_model, open_model
from ..models.save import Provenance, shareable
from ..planning import check_length, check_request, make_plan
from ..progress import Progress, no_progress
from ..settings import DEFAULTS, MAX_TOKENS, PRESET_SEQUENCES, PRESETS, TOKENS_PER_NEURON, Settings
from ..shape import Shape
from ..system.atomic import resolved
from ..system.machine import available_device
from ..system.tensors import TensorFiles
from .from_disk import Saving, Written, check_out, prune_to
from .model_on_disk import ModelOnDisk
from .verdict import Verdict, losses_by_text
from .work_folder import STORED_TYPES

WINDOWS = 12  # of one text, measured before and after
WINDOW_LENGTH = 512  # tokens in each
WINDOWS_OF_A_KIND = 2  # of each kind of text: a first look, which may not take longer than the pruning
WINDOW_LENGTH_OF_A_KIND = 256
USUAL_RATIO = 0.2
# type of the parent's numbers -> dtype of the pruned model's files; any other type: bfloat16
SAVED_AS = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16}
SETTINGS_WITHOUT_FLAG = ("widths", "recovery", "aim", "ridge", "layer_metric", "token_weights")


@dataclass(frozen=True)
class _Request:
    """What `prune_model` was asked for, checked."""

    settings: Settings
    calibration: Calibration
    preset: str
    evaluated: str | Path | None  # text that judges
    dtype: str  # to compute in
    at_most: float | None  # nats per token
    changes: dict[str, Any]  # the settings that the caller gave

    @property
    def needs_model(self) -> bool:
        """Whether the whole model must be in memory: to write text, for gradients, or to look for a ratio."""
        writes = not WRITTEN.keys().isdisjoint(shares_of(self.calibration.source))
        return writes or self.at_most is not None or self.needs_gradients

    @property
    def needs_gradients(self) -> bool:
        """Whether the method plans by gradients."""
        return method_of(self.settings.method).needs_gradients

    @property
    def copies(self) -> int:
        """How many copies of the model must fit in memory."""
        if self.needs_gradients:
            return 3
        return 1 if self.at_most is None else 2


def prune_model(
    model: str | Path,
    out: str | Path,
    ratio: float | None = None,
    *,
    at_most: float | str | None = None,
    preset: str = "stock",
    calibration: Calibration | str | Path = Calibration(),  # noqa: B008  a frozen value
    evaluated: str | Path | None = EVERY_KIND,
    method: str | None = None,
    layers: float | str | None = None,
    layer_metric: str | None = None,
    widths: str | None = None,
    kv_groups: int | None = None,
    recovery: str | None = None,
    aim: str | None = None,
    ridge: float | str | None = None,
    token_weights: bool | None = None,
    multiple: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Verdict:
    """Prune the model of that name, or in that folder, into the folder `out`: what `comp-lib prune` does.

    The same call goes on after a stop; a call with `at_most` does so once its ratio is found. The whole model
    is in memory only while it writes text, while a ratio is sought for `at_most`, or for a method that needs
    gradients.

        from comp_lib import Calibration, prune_model

        text = Calibration("mine.txt+shipped", sequences=64)
        verdict = prune_model("smollm2-135m", "build/small", ratio=0.2, calibration=text)
        print(verdict)

    Args:
        model: as for `load_model`: "smollm2-135m", a folder, a .gguf file or a Hub id.
        ratio: part of the decoder's parameters to remove, at least. None: 0.2, or what `at_most` allows.
        at_most: in place of a ratio, how much the loss may rise, in nats per token (`at_most.ratio_within`).
        preset: one of settings.PRESETS.
        calibration: text that decides, or its name or path. Its seed is also that of metrics that draw.
        evaluated: text that judges. None or "none": nothing is measured.
        method, layers, layer_metric, widths, kv_groups, recovery, aim, ridge, token_weights, multiple,
            device: fields of `Settings`, which win over the preset's. None is the default.
        dtype: to compute in: "float32", "bfloat16" or "float16".
        overwrite: whether an earlier result in `out` may be replaced.

    Raises InputError, before the model writes any text, for arguments that cannot be.
    Raises InputError for an `at_most` that is out of reach.
    """
    started = time.perf_counter()
    if not isinstance(model, str | Path):
        raise InputError(
            expected="the name or the folder of a model",
            got=type(model).__name__,
            hint="a loaded model is for comp_lib.prune",
        )
    changes = {
        "method": method,
        "layers": layers,
        "layer_metric": layer_metric,
        "widths": widths,
        "kv_groups": kv_groups,
        "recovery": recovery,
        "aim": aim,
        "ridge": ridge,
        "token_weights": token_weights,
        "multiple": multiple,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    text = calibration if isinstance(calibration, Calibration) else Calibration(calibration)
    judging = None if evaluated == "none" else evaluated
    request = _checked_request(ratio, at_most, preset, text, judging, changes, device, dtype)
    return _prune_model(str(model), out, request, overwrite, progress, started)


def _checked_request(
    ratio: float | None,
    at_most: float | str | None,
    preset: str,
    calibration: Calibration,
    evaluated: str | Path | None,
    changes: dict[str, Any],
    device: str,
    dtype: str,
) -> _Request:
    """What the caller asked for, checked as far as that goes without the model.

    Raises InputError for arguments that mean nothing, alone or together.
    """
    preset = str(preset)
    if preset not in PRESETS:
        raise InputError(expected="another preset", got=repr(preset), hint=suggestion(preset, PRESETS))
    nats = None
    if at_most is not None:
        from .at_most import SMALLEST_RATIO, parse_nats

        if ratio is not None:
            raise InputError(
                expected="--ratio or --at-most", got=f"{ratio} and {at_most}", hint="leave one of them out"
            )
        nats = parse_nats(at_most)
        if evaluated is None:
            raise InputError(
                expected="a text that judges with --at-most", got="none", hint="leave --evaluate out"
            )
        ratio = SMALLEST_RATIO
    recovery = default_recovery(str(changes.get("method", "comp")))
    values = {"recovery": recovery} | PRESETS[preset] | changes
    settings = Settings(
        USUAL_RATIO if ratio is None else ratio,
        seed=calibration.seed,
        device=str(available_device(device, double=True)),
        **values,
    )
    return _Request(settings, calibration, preset, evaluated, dtype, nats, changes)


def _prune_model(
    name: str,
    out: str | Path,
    request: _Request,
    overwrite: bool,
    progress: Progress,
    started: float,
) -> Verdict:
    """Carry out a checked request."""
    hashes = text_hashes(request.calibration.source)
    meta_model, files, tokenizer = open_model(name, request.dtype)
    source = ModelOnDisk(meta_model, files)
    request = _adapted(request, source)
    settings = request.settings
    text = request.calibration
    windows = _windows(request.evaluated, tokenizer, source.config.max_position_embeddings)
    stored = _usual_type(files)
    saved_dtype = min(SAVED_AS.get(stored, torch.bfloat16), source.dtype, key=lambda dtype: dtype.itemsize)
    all_windows = None
    if windows:
        all_windows = torch.cat([*windows.values()])
    judging_text = Path(str(request.evaluated)).name
    if len(windows) > 1:
        judging_text = f"{len(windows)} kinds of text"
    saving = Saving(name, all_windows, judging_text, overwrite=overwrite, dtype=saved_dtype)
    check_out(out, source, saving, (text.sequences or 0) * text.length)
    loaded: Model | None = None
    if request.needs_model:
        loaded, _ = load_model(name, request.dtype, settings.device, request.copies)
    ids = text.tokens(tokenizer, model=loaded, evaluated=request.evaluated, progress=progress)
    plan = None
    if loaded is not None:
        if request.at_most is not None:
            from .at_most import ratio_within

            ratio = ratio_within(
                request.at_most,
                loaded,
                ids,
                windows,
                settings,
                saved_dtype=saved_dtype,
                progress=progress,
            )
            settings = replace(settings, ratio=ratio)
        if request.needs_gradients:
            plan = make_plan(loaded, ids, settings, name, progress)
        loaded = None  # what follows needs the memory
    # The multiple that a plan would find by itself is set, so that the card names it.
    settings = replace(settings, multiple=settings.request(source.shape).multiple)
    card = _card(name, out, source.shape, replace(request, settings=settings), ids)
    saving = replace(saving, card=replace(card, hashes=hashes))
    written = prune_to(out, source, tokenizer, ids, settings, plan=plan, saving=saving, progress=progress)
    stored_types = (stored, STORED_TYPES[str(saved_dtype)])
    return _verdict(written, name, files, stored_types, windows, started)


def _adapted(request: _Request, source: ModelOnDisk) -> _Request:
    """The request for this model: with a number of sequences, and no bias where its family has no room.

    Raises InputError, before any text is read, for what no plan for the model can meet.
    """
    settings = request.settings
    if settings.recovery == "bias" and "recovery" not in request.changes:
        if not family_of(source.config).bias_fields:
            settings = replace(settings, recovery=default_recovery(settings.method, biases=False))
    check_request(source, settings)
    text = request.calibration
    check_length(source, text.length)
    if text.sequences is None:
        text = replace(text, sequences=_usual_sequences(source.shape, request.preset, text))
    return replace(request, settings=settings, calibration=text)


def _usual_sequences(shape: Shape, preset: str, calibration: Calibration) -> int:
    """How many sequences calibrate where nobody says it; see TOKENS_PER_NEURON for mixtures of texts."""
    usual = PRESET_SEQUENCES.get(preset, 128)
    if calibration.source not in MIXTURES:
        return usual
    tokens = max(TOKENS_PER_NEURON * max(shape.neurons), usual * calibration.length)
    return math.ceil(min(tokens, MAX_TOKENS) / calibration.length)


def _windows(evaluated: str | Path | None, tokenizer: Any, max_length: int) -> dict[str, Tensor]:
    """Windows (S, L) of each text that judges, of at most `max_length` tokens, which the model can read."""
    if evaluated is None:
        return {}
    if str(evaluated) == EVERY_KIND:
        return windows_of(evaluated, tokenizer, min(WINDOW_LENGTH_OF_A_KIND, max_length), WINDOWS_OF_A_KIND)
    return windows_of(evaluated, tokenizer, min(WINDOW_LENGTH, max_length), WINDOWS)


def _usual_type(files: TensorFiles) -> str:
    """The type as which most of the numbers in `files` are stored."""
    numbers = Counter[str]()
    for tensor, stored_type in files.stored_types.items():
        numbers[stored_type] += math.prod(files.shapes[tensor])
    ((usual, _),) = numbers.most_common(1)
    return usual


def _card(name: str, out: str | Path, shape: Shape, request: _Request, ids: Tensor) -> Provenance:
    """What the model card says of a run on ids (S, L)."""
    calibration = request.calibration
    source = calibration.source
    shares = shares_of(source)
    text = (
        f"{ids.shape[0]} x {ids.shape[1]} tokens of {shareable(source)}, drawn with seed {calibration.seed}"
    )
    if len(shares) > 1:
        text += f" ({', '.join(f'{shareable(part)} {share:.0%}' for part, share in shares.items())})"
    return Provenance(name, shape, text, asdict(request.settings), command=_command(name, out, request))


def _command(name: str, out: str | Path, request: _Request) -> str:
    """The command for the same run; "" where a setting that was given has no flag."""
    if request.changes.keys() & set(SETTINGS_WITHOUT_FLAG):
        return ""
    calibration = request.calibration
    flags: dict[str, object] = {
        "ratio": request.settings.ratio,
        "preset": request.preset,
        "calibration": calibration.source,
        "evaluate": request.evaluated or "none",
        "sequences": calibration.sequences,
        "length": calibration.length,
    }
    if calibration.seed != DEFAULTS["seed"]:
        flags["seed"] = calibration.seed
    flags |= {name: value for name, value in request.changes.items() if value != "auto"}
    if request.settings.device != DEFAULTS["device"]:
        flags["device"] = request.settings.device
    if request.dtype != DEFAULTS["dtype"]:
        flags["dtype"] = request.dtype
    arguments = ["comp-lib", "prune", shareable(name), "--out", resolved(out).name]
    for flag, value in flags.items():
        arguments += [f"--{flag.replace('_', '-')}", shareable(value)]
    return shlex.join(arguments)


def _verdict(
    written: Written,
    parent: str,
    files: TensorFiles,
    stored: tuple[str, str],
    windows: dict[str, Tensor],
    started: float,
) -> Verdict:
    """The verdict on what was written.

    stored: the type of most numbers in the files of the parent and of the model.
    """
    new_files = resolved(written.folder).glob("*.safetensors")
    return Verdict(
        **vars(written),
        parent=parent,
        megabytes=(_megabytes(files.files), _megabytes(new_files)),
        stored=stored,
        by_text=losses_by_text(written, windows),
        seconds=time.perf_counter() - started,
        next=shlex.join(["comp-lib", "evaluate", str(written.folder), "--against", parent]),
    )


def _megabytes(paths: Iterable[Path]) -> float:
    """Size of files, in millions of bytes."""
    return sum(path.stat().st_size for path in paths) / 1e6
