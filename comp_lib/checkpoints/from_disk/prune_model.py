"""`comp-lib prune` in Python: from the name of a model to a smaller one in a folder, or in a .gguf file.

`prune_model` also returns a verdict on the smaller model.

In a folder the pruned model is saved in the dtype of its parent. Where the parent is quantised it is saved in
bfloat16, as nearly all originals are. A number never takes more bytes than it was computed in. What a file
has is said in `gguf_file`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...calibration.defaults import USUAL_WINDOW
from ...calibration.in_memory import Source, as_source
from ...calibration.mixtures import text_hashes
from ...calibration.texts import EVERY_KIND
from ...calibration.windows import Calibration
from ...decoder.tokens import check_length
from ...evaluation.format import describe_chance
from ...evaluation.windows import windows_of
from ...hybrid_granularity.plan import Plan
from ...pruning.checks import check_settings_for
from ...pruning.planning import complete_settings, make_plan
from ...pruning.settings import CompleteSettings, MethodChanges, PresetName, Settings
from ...utils.arguments import check_switch, check_type
from ...utils.errors import InputError, warn_once
from ...utils.files import resolve
from ...utils.progress import Progress, check_progress, no_progress
from ..gguf.write import GgufType, size_of_tensors
from ..load import DtypeName, check_dtype, load_with_room, open_model
from ..tensors import STORED_TYPES, stored_type
from .destination import SaveOptions, checked_run_folder
from .from_disk import SavedModel, prune_to
from .gguf_file import (
    check_result_fits,
    gguf_type_above,
    is_gguf_name,
    matrix_type,
    with_fitting_multiple,
    working_dtype,
)
from .model_on_disk import ModelOnDisk
from .run_options import FittedOptions, RunOptions, checked_options, usual_sequences
from .run_provenance import provenance_of_run
from .verdict import Verdict, quality_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

WINDOWS = 12  # windows of USUAL_WINDOW tokens, at most, in which the losses on one text are measured
# Windows of each kind of text, where all kinds judge: a first look, which may not outlast the pruning.
WINDOWS_OF_A_KIND = 2
WINDOW_LENGTH_OF_A_KIND = 256  # tokens in each of them
PRUNING_MEMORY_HINT = (
    "choose a smaller model, bfloat16 if you can, or the calibration shipped, which needs no model"
)


@dataclass(frozen=True)
class _Parent:
    """The model that is to be pruned, as its files hold it."""

    name: str
    """The name that the user knows."""
    model: ModelOnDisk
    """The model, of which one layer at a time is read."""
    tokenizer: PreTrainedTokenizerBase
    """The tokenizer of the model."""
    stored_type: str
    """The type as which most of its numbers are stored."""

    @classmethod
    def open(cls, name: str, dtype: DtypeName) -> _Parent:
        """Open the files of a model, to compute in `dtype`."""
        meta_model, files, tokenizer = open_model(name, dtype)
        return cls(name, ModelOnDisk(meta_model, files), tokenizer, files.usual_type(files.stored_types))

    @property
    def matrix_type(self) -> str:
        """The type as which most of the numbers in the matrices of its layers are stored."""
        return matrix_type(self.model.files)

    def saved_dtype(self, gguf_type: GgufType | None) -> torch.dtype:
        """The dtype in which the pruned model is saved.

        gguf_type: the type of the GGUF file that is then made of it; None: none is.
        """
        original = STORED_TYPES.get(self.stored_type, torch.bfloat16)
        if gguf_type is not None:
            original = working_dtype(gguf_type)
        return min(original, self.model.dtype, key=lambda dtype: dtype.itemsize)


@dataclass(frozen=True)
class _Decisions:
    """Decisions that are made before the first layer is pruned."""

    ids: Tensor
    """Calibration tokens (S, L)."""
    settings: CompleteSettings
    """The settings, with the ratio also where it was sought."""
    plan: Plan | None
    """The plan of a method that needs gradients; None: it is made from the files."""


def prune_model(
    name: str | Path,
    out: str | Path,
    ratio: float | None = None,
    *,
    settings: Settings | None = None,
    at_most: float | str | None = None,
    preset: PresetName | None = None,
    calibration: Calibration | Source = Calibration(),  # noqa: B008  a frozen value
    judged_on: Source | None = EVERY_KIND,
    device: str | None = None,
    dtype: DtypeName = "float32",
    overwrite: bool = False,
    progress: Progress = no_progress,
    **changes: Unpack[MethodChanges],
) -> Verdict:
    """Prune the model of that name, or in that folder, into the folder `out`, or the file `out` (.gguf).

    This is what `comp-lib prune` does. The same call goes on after a stop; a call with `at_most` does so once
    its ratio is found. The whole model is in memory only while it writes text, while a ratio is sought for
    `at_most`, and for a method that needs gradients.

    Args:
        name: as for `load_model`: "smollm2-135m", a folder, a .gguf file or a Hub id.
        ratio: part of the decoder's parameters to remove, at least. None: 0.2, or what `at_most` allows.
        settings: as for `prune`, in place of `ratio`, `preset`, `device` and `changes`; its seed is that of
            metrics that draw. With `at_most` its ratio does not count. The usual amount of text is that of
            the preset whose settings it has.
        at_most: in place of a ratio, how much the loss may rise, in nats per token; see
            `ratio_search.ratio_within`.
        preset: one of PRESETS; None: what `Settings` does where nothing is said, which is "tailored" for
            COMP.
        calibration: text that calibrates: its name or path, a list of texts, or a `Calibration`, which also
            says how much of it. Its seed is that of metrics that draw, too, unless there are `settings`.
        judged_on: text that judges: its name or path, or a list of texts. None: nothing is measured.
        device: where it computes, in float64 too: "cpu", "cuda", "cuda:1", or "auto" for the best. None:
            "cpu", or what `settings` say.
        dtype: to compute in: "float32", "bfloat16" or "float16".
        overwrite: whether an earlier result in `out` may be replaced.
        progress: called after each step of the work.
        changes: fields of `Settings`, such as `method`, `widths` or `recovery`, which win over the preset's.

    Raises InputError, before the model writes any text, for arguments of a wrong type or value.
    Raises OutOfReach for an `at_most` that even the smallest step exceeds; NoNumber for a model whose loss or
    divergence is no number.

        from comp_lib import Calibration, prune_model

        text = Calibration("mine.txt+shipped", sequences=64)
        verdict = prune_model("smollm2-135m", "build/small", ratio=0.2, calibration=text)
        print(verdict)
    """
    started = time.perf_counter()
    if not isinstance(name, str | Path):
        raise InputError(
            expected="the name or the folder of a model",
            got=type(name).__name__,
            hint="a loaded model is for comp_lib.prune",
        )
    check_type("out", out, "the name of a folder", example="build/small")
    check_switch("overwrite", overwrite)
    check_progress(progress)
    check_dtype(dtype)
    if judged_on is not None:
        judged_on = as_source("judged_on", judged_on, example="evaluation:code")
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    options = checked_options(
        settings=settings,
        ratio=ratio,
        at_most=at_most,
        preset=preset,
        calibration=calibration,
        judged_on=judged_on,
        changes=changes,
        device=device,
        dtype=dtype,
    )
    hashes = text_hashes(calibration.source)
    parent = _Parent.open(str(name), dtype)
    fitted = _fit(options, parent, out)
    windows_by_text = _windows(judged_on, parent.tokenizer, parent.model.config.max_position_embeddings)
    save_options = _save_options(parent, fitted, windows_by_text, overwrite=overwrite)
    checked_run_folder(out, parent.model, fitted.token_count, save_options)
    if fitted.gguf_type not in (None, parent.matrix_type.lower()):
        warn_once(
            f"comp-lib does not write {parent.matrix_type}: the matrices of {out} will be {fitted.gguf_type}"
        )
    decisions = _decide(fitted, parent, windows_by_text, progress)
    provenance = provenance_of_run(
        out,
        parent.name,
        parent.model.shape,
        replace(fitted, settings=decisions.settings),
        decisions.ids,
        hashes,
    )
    saved = prune_to(
        out,
        parent.model,
        parent.tokenizer,
        decisions.ids,
        decisions.settings,
        plan=decisions.plan,
        options=replace(save_options, provenance=provenance),
        progress=progress,
    )
    return _verdict(saved, parent, fitted.gguf_type, windows_by_text, started)


def _save_options(
    parent: _Parent, options: FittedOptions, windows_by_text: dict[str, Tensor], *, overwrite: bool
) -> SaveOptions:
    """Options that say how the result is saved, and that it is judged on `windows_by_text`."""
    save_options = SaveOptions(
        parent.name,
        overwrite=overwrite,
        dtype=parent.saved_dtype(options.gguf_type),
        gguf_type=options.gguf_type,
    )
    if not windows_by_text:
        return save_options
    text = Path(str(options.judged_on)).name
    if len(windows_by_text) > 1:
        text = f"{len(windows_by_text)} kinds of text"
    return replace(save_options, windows=torch.cat([*windows_by_text.values()]), text=text)


def _decide(
    options: FittedOptions,
    parent: _Parent,
    windows_by_text: dict[str, Tensor],
    progress: Progress,
) -> _Decisions:
    """Read or write the calibration text, and decide what only a model in memory can decide.

    The model is in memory no longer than this takes.
    """
    calibration = options.calibration
    settings = options.settings
    if not options.needs_model:
        ids = calibration.tokens(parent.tokenizer, model=None, judged_on=options.judged_on, progress=progress)
        return _Decisions(ids, _with_multiple(settings, parent), plan=None)
    model, _ = load_with_room(
        parent.name, options.dtype, settings.device, copies=options.copies, hint=PRUNING_MEMORY_HINT
    )
    ids = calibration.tokens(parent.tokenizer, model=model, judged_on=options.judged_on, progress=progress)
    if options.at_most is not None:
        from .ratio_search import ratio_within

        ratio = ratio_within(
            options.at_most,
            model,
            ids,
            windows_by_text,
            settings,
            saved_dtype=parent.saved_dtype(options.gguf_type),
            gguf_type=options.gguf_type,
            progress=progress,
        )
        settings = replace(settings, ratio=ratio)
    plan = None
    if options.needs_gradients:
        plan = make_plan(model, ids, settings, parent.name, progress)
    return _Decisions(ids, _with_multiple(settings, parent), plan)


def _with_multiple(settings: CompleteSettings, parent: _Parent) -> CompleteSettings:
    """The settings with the multiple that a plan would find by itself, so that the card names it."""
    return replace(settings, multiple=settings.plan_request(parent.model.shape).multiple)


def _fit(options: RunOptions, parent: _Parent, out: str | Path) -> FittedOptions:
    """The options, fitted to the model and to the kind of file that `out` is.

    Raises InputError, before any text is read, for what the model or the file cannot have.
    """
    gguf_type = None
    if is_gguf_name(out):
        gguf_type = gguf_type_above(parent.matrix_type, parent.model.dtype)
    settings = _fit_settings(options, parent, gguf_type)
    calibration = _fit_calibration(options, parent)
    return FittedOptions(
        **(vars(options) | {"settings": settings, "calibration": calibration}), gguf_type=gguf_type
    )


def _fit_settings(options: RunOptions, parent: _Parent, gguf_type: GgufType | None) -> CompleteSettings:
    """The settings of the run for this model.

    They get the recovery and widths of the method where none is named, and for a GGUF file a multiple that
    its matrices can have.

    Raises InputError, before any text is read, for what no plan for the model can meet, and for what a GGUF
    file cannot hold.
    """
    source = parent.model
    settings = complete_settings(source, options.settings)
    if gguf_type is not None:
        settings = with_fitting_multiple(
            settings, source.shape, gguf_type, ratio_known=options.at_most is None
        )
    check_settings_for(source, settings)
    if gguf_type is not None:
        check_result_fits(source, parent.tokenizer, settings, gguf_type)
    return settings


def _fit_calibration(options: RunOptions, parent: _Parent) -> Calibration:
    """The text that calibrates, with a number of sequences that suits the model where nobody said it.

    Raises InputError for sequences that are longer than the model's context.
    """
    source = parent.model
    calibration = options.calibration
    check_length(calibration.length, source.config.max_position_embeddings)
    if calibration.sequences is None:
        sequences = usual_sequences(source.shape, options.preset, calibration)
        calibration = replace(calibration, sequences=sequences)
    return calibration


def _windows(judged_on: Source | None, tokenizer: Any, max_length: int) -> dict[str, Tensor]:
    """Windows (S, L) of each text that judges, of at most `max_length` tokens, which the model can read."""
    if judged_on is None:
        return {}
    if str(judged_on) == EVERY_KIND:
        return windows_of(judged_on, tokenizer, min(WINDOW_LENGTH_OF_A_KIND, max_length), WINDOWS_OF_A_KIND)
    windows_by_text = windows_of(judged_on, tokenizer, min(USUAL_WINDOW, max_length))
    return {name: ids[:WINDOWS] for name, ids in windows_by_text.items()}


def _verdict(
    saved: SavedModel,
    parent: _Parent,
    gguf_type: GgufType | None,
    windows_by_text: dict[str, Tensor],
    started: float,
) -> Verdict:
    """The verdict on what was written.

    gguf_type: the type of the matrices of the GGUF file; None: it is a folder.
    """
    if gguf_type is None:
        new_files = list(resolve(saved.path).glob("*.safetensors"))
        dtype = parent.saved_dtype(gguf_type)
        parent_type = parent.stored_type
        new_type = stored_type(dtype)
        parent_bytes = parent.model.shape.total_parameters * dtype.itemsize
    else:
        new_files = [saved.path]
        parent_type = parent.matrix_type
        new_type = gguf_type.upper()
        parent_bytes = size_of_tensors(parent.model.files.shapes, gguf_type)
    parent_megabytes = _megabytes(parent.model.files.files)
    quality = quality_of(saved, windows_by_text)
    warnings = []
    if quality is not None:
        vocabulary = parent.model.config.vocab_size
        warnings = describe_chance(parent.name, quality.mean.values["dense_loss"], vocabulary)
    return Verdict(
        **vars(saved),
        parent_name=parent.name,
        parent_megabytes=parent_megabytes,
        parent_megabytes_in_new_type=parent_megabytes if parent_type == new_type else parent_bytes / 1e6,
        megabytes=_megabytes(new_files),
        parent_stored_type=parent_type,
        stored_type=new_type,
        quality=quality,
        warnings=tuple(warnings),
        seconds=time.perf_counter() - started,
        next_command=shlex.join(["comp-lib", "evaluate", str(saved.path), "--against", parent.name]),
    )


def _megabytes(paths: Iterable[Path]) -> float:
    """Size of files, in millions of bytes."""
    return sum(path.stat().st_size for path in paths) / 1e6
