"""COMP from files to files, a layer at a time: the same call goes on after a kill.

The loop is the same as in memory, `comp.prune_layers`, with other ends: a layer is read from its files
(`model_on_disk.ModelOnDisk`), pruned, and written to its bytes in the files of the new model (`DiskSink`).
Hidden states are in files, too. So `prune_to` never has the whole model in memory: its memory grows with the
largest layer, not with the number of layers. There is one exception. What judges a layer by the model's
answer (measured widths, layers to drop) keeps the hidden states of a few sequences for each layer.

Its caller `prune_model` does have the whole model in memory for a while where the model writes text, for
`at_most`, and for a method that needs gradients.

The work is done in the folder `NAME.partial`, which becomes the folder NAME in the end:

    lock              held while a process works here: a second one is refused
    progress.json     the identity of the run, and what is finished (`work_folder.Journal`)
    model.safetensors the new model, of which progress.json says how many layers are there
    states-N          hidden states (`work_folder.StatesFile`)

What progress.json names is on the disk before it is named, with a checksum. What it does not name is made
again. So a run that was cut off at any point ends with the bytes of an undisturbed one, or is refused where
somebody damaged what was finished. Anything but ordinary files in the folder is refused, too.

A run that makes a GGUF file NAME.gguf works in `NAME.gguf.partial` in the same way. Its last step exports
what is there as the file, which then takes its name, and deletes the folder.
"""

from __future__ import annotations

import errno
import json
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..checks import checked_call
from ..comp import Sink, prune_layers
from ..errors import InputError, refusing
from ..families.find import layers_of
from ..families.types import Layer, Model
from ..gguf.write import check_exportable
from ..methods import method_of
from ..models.export import export_gguf
from ..models.load import DTYPES, open_model
from ..models.meta_model import make_meta_model, with_true_config
from ..models.own_texts import TEMPLATE_FOLDER
from ..models.save import PLAN_FILE, Provenance, check_destination, save_metadata
from ..plan import Plan
from ..planning import make_plan
from ..progress import Progress, no_progress
from ..prune_layer import States, Streams
from ..report import LayerReport, Report, finished_plan_and_report
from ..settings import Settings
from ..shape import Shape
from ..surgery import add_biases, keep_layers, shrink, update_config
from ..system.files import check_output, fsync, resolve, take_name
from ..system.hashes import checksum_of_file, hash_of_value
from ..system.tensors import EMBEDDING, HEAD, TensorFiles
from ..walk import sequence_losses, walk
from .gguf_file import check_file_out
from .model_on_disk import TOKENS_OF_A_PIECE, ModelOnDisk
from .run_state import EXPECTED, HINT, StreamsState
from .work_folder import JOURNAL, Journal, StatesFile, lay_out, read_state, write_rows

LOCK = "lock"
# What a disk refuses: it is full or broken, its user may not write, or there can be no such folder.
DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
STATES_FILES = 5  # files of states at once, at most: of two streams, and of three steps of a layer
DISK_BLOCK = 512  # bytes of a block: the system counts in blocks what a file takes


@dataclass(frozen=True)
class SaveOptions:
    """Options that say how the result of `prune_to` is written and judged."""

    name: str = ""  # name of the parent, as the user knows it
    windows: Tensor | None = None  # tokens (S, L) on which both models are measured
    text: str = "evaluation"  # name of the text that these tokens are of
    card: Provenance | None = None  # content of the model card; None: a short card
    overwrite: bool = False  # whether an earlier result in the folder may be replaced
    dtype: torch.dtype | None = None  # dtype of the files; None: that in which the model computes
    gguf_type: str | None = None  # type of the matrices of a GGUF file (`gguf.write.TYPES`); None: a folder


@dataclass(frozen=True)
class SavedModel:
    """A pruned model on disk."""

    path: Path
    """The folder that has its files, or the GGUF file."""
    plan: Plan
    """Names the neurons and KV groups that stayed."""
    report: Report
    """Says for each layer how pruning went."""
    parent_shape: Shape
    """The shape of the parent."""
    shape: Shape
    """The shape of the pruned model."""
    losses: tuple[tuple[float, float], ...] = ()
    """For each window the loss of the parent and of the pruned model, nats per token."""


@torch.no_grad()
def prune_to(
    out: str | Path,
    model: ModelOnDisk,
    tokenizer: PreTrainedTokenizerBase,
    ids: Tensor,
    settings: Settings | None = None,
    *,
    plan: Plan | None = None,
    options: SaveOptions = SaveOptions(),  # noqa: B008  a frozen value
    progress: Progress = no_progress,
) -> SavedModel:
    """Prune `model` on the calibration tokens `ids` (S, L) and write the result to `out`.

    That is a folder, or with `options.gguf_type` a GGUF file. The result equals that of `prune` and
    `save_checkpoint`, with `export_gguf` for a file, up to rounding. It is judged as the files hold it. If an
    earlier call was cut off, the same call goes on from the last finished layer, and ends with the same
    bytes.

    Args:
        tokenizer: is saved with the model.
        settings: as for `prune`.
        plan: how much stays, as for `prune`; None: one is made by `settings`. With a plan, what `settings`
            say of `ratio`, `layers`, `layer_metric`, `widths`, `kv_groups` and `multiple` is ignored. A
            method that needs gradients needs a plan, which was made in memory.
        options: how the result is written and judged.
        progress: called with the report of each layer that is finished.

    Raises InputError before any work for what `prune` and `save_checkpoint` refuse; for NaN when it is read.
    Raises InputError when another process prunes into `out`.
    Raises InputError when `NAME.partial` was begun by another call, or has files of other origin.
    """
    started = time.perf_counter()
    if settings is None:
        settings = Settings()
    ids, settings = checked_call(model, ids, settings, plan)
    if method_of(settings.method).needs_gradients and plan is None:
        raise InputError(
            expected="what looks at one layer at a time, or a plan",
            got=f"the method {settings.method} and no plan",
            hint="it needs the whole model, see planning.make_plan",
        )
    target = resolve(out)
    work = check_out(out, model, ids.numel(), options)
    with _lock(work):
        journal = Journal(work, _identity(model, ids, settings, plan, options))
        if journal.state.exported and _exported_file(work, target) is None:  # somebody took it away
            journal.record(layers=(), exported=False, checksums={})
        plan = _settle_plan(journal, model, ids, settings, plan, options.name, progress)
        dense_losses = _measure(journal, "dense", model, options.windows, settings.device, progress)
        meta_model = planned_meta_model(model, plan, settings, options.dtype or model.dtype)
        if options.gguf_type is not None:
            check_exportable(meta_model, Shape.of(meta_model), tokenizer, options.gguf_type)
        meta_model.config.save_pretrained(work)
        meta_model.generation_config.to_json_file(work / "generation_config.json")
        sink = DiskSink(journal, model, plan, meta_model, len(ids))
        if sink.finished_layers < model.shape.layers:
            prune_layers(model, ids, settings, plan, sink, progress)
        if options.gguf_type is None:
            small = ModelOnDisk(make_meta_model(meta_model.config, model.dtype), TensorFiles(work))
        else:
            small = _export(journal, target, tokenizer, options.gguf_type, model.dtype, progress)
        small_losses = _measure(journal, "pruned", small, options.windows, settings.device, progress)
        reports = [report for report in sink.reports() if report is not None]
        plan, report = finished_plan_and_report(plan, reports, settings, ids, model.shape, small.shape)
        report = replace(report, seconds=time.perf_counter() - started)
        if options.gguf_type is None:
            card = _card(options, model.shape, ids, settings, dense_losses, small_losses)
            save_metadata(work, target.name, tokenizer, small.shape, plan, card)
    # after the lock is let go: Windows renames no folder in which a file is open
    if options.gguf_type is None:
        _finish_folder(work, target, model, overwrite=options.overwrite)
    else:
        _finish_file(work, target, overwrite=options.overwrite)
    losses = tuple(zip(dense_losses, small_losses, strict=True))
    return SavedModel(Path(out).expanduser(), plan, report, model.shape, small.shape, losses)


def _export(
    journal: Journal,
    target: Path,
    tokenizer: PreTrainedTokenizerBase,
    gguf_type: str,
    dtype: torch.dtype,
    progress: Progress,
) -> ModelOnDisk:
    """Write the new model as a GGUF file into the folder of the run, unless that is done, and open it.

    Args:
        target: the file that the run makes.
        gguf_type: the type of its matrices.
        dtype: in which the opened model computes.
    """
    work = journal.work
    if not journal.state.exported:
        for path in work.glob(f"{target.name}.partial-*"):  # of an export that was cut off
            path.unlink()
        tokenizer.save_pretrained(work)
        exported = export_gguf(work, work / target.name, gguf_type, overwrite=True, progress=progress)
        journal.record(exported=True, checksums={target.name: checksum_of_file(exported)})
    else:
        exported = _exported_file(work, target) or target
        journal.check(target.name, exported)
    names = {known_dtype: name for name, known_dtype in DTYPES.items()}
    meta_model, files, _ = open_model(exported, names[dtype])
    return ModelOnDisk(meta_model, files)


def _exported_file(work: Path, target: Path) -> Path | None:
    """Where the GGUF file is that the run in `work` has exported; None: it is gone."""
    return next((path for path in (work / target.name, target) if path.is_file()), None)


def _finish_folder(work: Path, target: Path, model: ModelOnDisk, *, overwrite: bool) -> None:
    """Let the folder `work` take its name, and delete what belongs to the run alone.

    Raises InputError where something has come there meanwhile, which so stays.
    """
    if work != target:
        check_destination(target, overwrite, 0, model.files.path)
        for path in work.iterdir():
            fsync(path)
        take_name(work, target)
    (target / LOCK).unlink(missing_ok=True)
    (target / JOURNAL).unlink()  # last, since a run that is killed before this goes on from it


def _finish_file(work: Path, target: Path, *, overwrite: bool) -> None:
    """Let the exported GGUF file take its name, and delete the folder `work`.

    Raises InputError where something has come there meanwhile, which so stays.
    """
    exported = work / target.name
    if exported.is_file():
        check_output(target, overwrite)
        take_name(exported, target)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != JOURNAL:
            path.unlink()
    (work / JOURNAL).unlink()  # last, since a run that is killed before this goes on from it
    work.rmdir()


def check_out(out: str | Path, model: ModelOnDisk, tokens: int, options: SaveOptions) -> Path:
    """Check that a run into `out` may begin, or go on, and return the folder in which it works.

    That folder is beside `out`, until the model has taken the name.

    Args:
        model: the parent.
        tokens: how many tokens calibrate, whose hidden states take room.
        options: say whether `out` is a folder, what its numbers take, and what may be replaced.

    Raises InputError for a folder or file of something else, and for a disk without enough room.
    """
    target = resolve(out)
    work = target.parent / f"{target.name}.partial"
    has_its_name = False
    if options.gguf_type is None:
        has_its_name = all((target / name).is_file() for name in (JOURNAL, PLAN_FILE))
        work = target if has_its_name else work
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise InputError(
            expected=f"a folder or nothing as {work}",
            got="a file or a link",
            hint="move it away or choose another name",
        )
    taken_bytes = _disk_usage(work) if work.is_dir() else {}
    if taken_bytes.keys() - {LOCK, f"{JOURNAL}.tmp"} and JOURNAL not in taken_bytes:
        raise InputError(
            expected="nothing, or a run that was cut off",
            got=f"{work} with other files",
            hint="move it away or choose another name",
        )
    if options.gguf_type is not None and JOURNAL in taken_bytes:
        exported = read_state(work / JOURNAL).exported
        has_its_name = exported and _exported_file(work, target) == target
    if not has_its_name:
        state_bytes = STATES_FILES * tokens * model.shape.hidden * model.dtype.itemsize
        weight_bytes = model.shape.total_parameters * (options.dtype or model.dtype).itemsize
        needed_bytes = max(0, weight_bytes + state_bytes - sum(taken_bytes.values()))
        if options.gguf_type is None:
            check_destination(out, options.overwrite, needed_bytes, model.files.path)
        else:
            check_file_out(
                out, options.gguf_type, needed_bytes, model.files.path, overwrite=options.overwrite
            )
    return work


def _disk_usage(folder: Path) -> dict[str, int]:
    """Name in the folder of a run -> the bytes that the file takes on the disk.

    A file with holes takes less than its size.

    Raises InputError for what a run does not make, such as a link, which may lead to somebody's file.
    """
    usage = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:  # another process works here, as the lock will say
            continue
        is_file = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
        if not is_file and not (stat.S_ISDIR(status.st_mode) and path == folder / TEMPLATE_FOLDER):
            raise InputError(
                expected=f"nothing but ordinary files in {folder}",
                got=f"{path.name}, which is a link, a folder or of another kind",
                hint="move that folder away or choose another name",
            )
        blocks = getattr(status, "st_blocks", None)  # Windows has none
        usage[path.name] = status.st_size
        if blocks is not None:
            usage[path.name] = min(status.st_size, DISK_BLOCK * blocks)
    return usage


@contextmanager
def _lock(work: Path) -> Iterator[None]:
    """Let no other process work in the folder `work` while the block runs.

    The folder is made if it is missing.

    Raises InputError when another process works there.
    Raises InputError when the disk refuses something in the block, such as more of a full disk. Other errors
    of the system, such as a broken pipe of whoever shows the progress, are none of the folder's.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            expected=f"no other process that prunes into {work}",
            got="one that does",
            hint="wait until it ends, or choose another name",
        ) from error
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(
            expected=f"to work in {work}",
            got=error,
            hint="make room there, or let it be written to; then the same command goes on",
        ) from error


def _identity(
    model: ModelOnDisk, ids: Tensor, settings: Settings, plan: Plan | None, options: SaveOptions
) -> dict[str, Any]:
    """The identity of a run: all that decides its bytes, and its name.

    A run goes on only with the same identity.
    """
    given_plan = None
    # A plan that needed gradients follows from the rest, but on a graphics card not to the last bit.
    if plan is not None and not method_of(settings.method).needs_gradients:
        given_plan = json.loads(plan.to_json())
    judged_on = None
    if options.windows is not None:
        judged_on = hash_of_value(options.windows.tolist())
    return {
        "model": model.files.fingerprint(),
        "settings": asdict(settings),
        "dtype": [str(model.dtype), str(options.dtype or model.dtype)],
        "gguf_type": options.gguf_type,
        "name": options.name,
        "plan": given_plan,
        "calibration": hash_of_value(ids.tolist()),
        "judged_on": judged_on,
        "comp_lib": __version__,
    }


def _settle_plan(
    journal: Journal,
    model: ModelOnDisk,
    ids: Tensor,
    settings: Settings,
    plan: Plan | None,
    name: str,
    progress: Progress,
) -> Plan:
    """Decide on the plan, and write it in the journal.

    It is the plan in the journal, else the given one, else a new one.
    """
    plan_text = journal.state.plan
    if plan_text is None:
        plan = plan or make_plan(model, ids, settings, name, progress)
        plan_text = plan.to_json()
    # The journal is written only now, so that a plan that is refused leaves no run behind.
    # This also deletes hidden states that a killed run left without naming them.
    journal.record(plan=plan_text)
    return Plan.from_json(plan_text)


def _measure(
    journal: Journal,
    label: str,
    model: ModelOnDisk,
    windows: Tensor | None,
    device: str,
    progress: Progress,
) -> list[float]:
    """Measure the loss of the model in each window (S, L), nats per token.

    Losses that the journal has are not measured again.

    label: which of the two models it is, "dense" or "pruned".

    Raises InputError where the journal has losses of other windows.
    """
    if windows is None:
        return []
    field = f"{label}_losses"
    if getattr(journal.state, field) is None:
        hidden = torch.empty(0)
        for visit in walk(model, windows, device):
            hidden = visit.after
            progress(f"measuring {label}", visit.index + 1, model.shape.layers)
        journal.record(**{field: tuple(sequence_losses(model, hidden, windows).tolist())})
    losses = list(getattr(journal.state, field))
    if len(losses) != len(windows):
        got = f"{len(losses)} as {field} in {journal.work}"
        raise InputError(expected=f"{EXPECTED}, with {len(windows)} losses", got=got, hint=HINT)
    return losses


def planned_meta_model(model: ModelOnDisk, plan: Plan, settings: Settings, dtype: torch.dtype) -> Model:
    """The new model as the plan has it, on the device meta, where tensors have shapes but no numbers."""
    small = make_meta_model(model.config, dtype)
    layers = layers_of(small)
    for index, groups, neurons in zip(plan.layers, plan.kv_groups, plan.neurons, strict=True):
        if settings.recovery == "bias":
            add_biases(layers[index])
        shrink(layers[index], "attention", torch.arange(groups))
        shrink(layers[index], "mlp", torch.arange(neurons))
    keep_layers(small, plan.layers)
    update_config(small)
    small.generation_config = model.structure.generation_config
    small = with_true_config(small)
    small.config.dtype = str(dtype).removeprefix("torch.")
    small.config.architectures = [type(small).__name__]
    return small


class DiskSink(Sink):
    """A sink that writes layers to the files of the new model, and hidden states to other files."""

    def __init__(
        self, journal: Journal, model: ModelOnDisk, plan: Plan, meta_model: Model, sequences: int
    ) -> None:
        """Lay out the files of the new model, and check what is finished.

        Args:
            journal: says what is finished.
            model: the parent.
            plan: how much of each layer stays.
            meta_model: the new model without its numbers, in the dtype of its files.
            sequences: how many sequences calibrate.

        Raises InputError where something that is finished is gone or damaged.
        """
        self.journal = journal
        self.model = model
        self.plan = plan
        self.dtype = meta_model.dtype
        self.sequences = sequences
        # tensor name -> where its bytes are; a tied head has no entry of its own
        self.slots = lay_out(journal.work, dict(meta_model.named_parameters()))
        # tensor name -> the checksum of its bytes, for those that are finished
        self.checksums = {
            name: checksum for name, checksum in journal.state.checksums.items() if name in self.slots
        }
        for name in self.checksums:
            slot = self.slots[name]
            journal.check(name, slot.path, slot.start, slot.size)
        for name in sorted(journal.state.states_files):
            journal.check(name, journal.work / name)

    @property
    def finished_layers(self) -> int:
        """How many layers of the parent are finished."""
        return len(self.journal.state.layers)

    def reports(self) -> list[LayerReport | None]:
        """The reports of the finished layers, None for a layer that is dropped."""
        return list(self.journal.state.layers)

    def new_states(self, shape: Sequence[int], /, *, dtype: torch.dtype) -> StatesFile:
        return StatesFile.create(self.journal.work, shape, dtype)

    def resume(self, settings: Settings, length: int) -> tuple[Streams | None, list[LayerReport | None]]:
        state = self.journal.state.streams
        if state is None:
            self._write_frame()
            return None, []
        shape = (self.sequences, length, self.model.shape.hidden)
        dense_stream = None
        if state.dense_stream is not None:
            dense_stream = StatesFile(self.journal.work / state.dense_stream, shape, self.model.dtype)
        generator = torch.Generator()
        with refusing(EXPECTED, f"{self.journal.work}: generator", HINT):
            generator.set_state(torch.tensor(state.generator, dtype=torch.uint8))
        resumed = Streams(
            pruned_stream=StatesFile(self.journal.work / state.pruned_stream, shape, self.model.dtype),
            dense_stream=dense_stream,
            may_differ=state.may_differ,
            ridge_positions=dict(state.ridge_positions),
            generator=generator,
        )
        return resumed, self.reports()

    def put(self, index: int, layer: Layer, report: LayerReport | None, streams: Streams) -> None:
        state_paths = {_path_of(streams.pruned_stream)}
        if streams.dense_stream is not None:
            state_paths.add(_path_of(streams.dense_stream))
        written_names = []
        if report is not None:
            position = self.plan.layers.index(index)
            for name, weight in layer.state_dict().items():
                written_names.append(f"model.layers.{position}.{name}")
                self._write(written_names[-1], self._convert(f"model.layers.{index}.{name}", weight))
        self._settle(written_names)
        state = None
        checksums = dict(self.checksums)
        if index + 1 < self.model.shape.layers:  # nothing needs the streams after the last layer
            state = _state_of(streams)
            for path in sorted(state_paths):
                fsync(path)
                checksums[path.name] = checksum_of_file(path)
        self.journal.record(layers=(*self.journal.state.layers, report), streams=state, checksums=checksums)

    def _convert(self, name: str, weight: Tensor) -> Tensor:
        """A weight of the pruned layer in the dtype of the files.

        Raises InputError for a weight that is too large for that dtype, or not a number.
        """
        converted = weight.to(self.dtype)
        if not converted.isfinite().all():
            type_name = str(self.dtype).removeprefix("torch.")
            raise InputError(
                expected=f"refitted weights that {type_name}, the dtype of the files, can hold",
                got=f"NaN or infinity in {name}",
                hint="prune a parent that is stored in bfloat16 or float32, into a folder",
            )
        return converted

    def _write_frame(self) -> None:
        """Write the tensors that belong to no layer."""
        files = self.model.files
        for name in self.slots:
            if name in (EMBEDDING, HEAD):
                for rows in torch.arange(files.shapes[name][0]).split(TOKENS_OF_A_PIECE):
                    self._write(name, files.read(name, self.dtype, rows), int(rows[0]))
            elif ".layers." not in name:
                self._write(name, files.read(name, self.dtype))
        self._settle([name for name in self.slots if ".layers." not in name])

    def _write(self, name: str, rows: Tensor, first_row: int = 0) -> None:
        """Write rows of a tensor to its file.

        The disk may not have them yet.
        """
        write_rows(self.slots[name], rows, first_row)

    def _settle(self, names: Sequence[str]) -> None:
        """Let written tensors reach the disk, and note their checksums."""
        for path in sorted({self.slots[name].path for name in names}):
            fsync(path)
        for name in names:
            slot = self.slots[name]
            self.checksums[name] = checksum_of_file(slot.path, slot.start, slot.size)


def _state_of(streams: Streams) -> StreamsState:
    """The streams as the journal holds them."""
    dense_name = None
    if streams.dense_stream is not None:
        dense_name = _path_of(streams.dense_stream).name
    return StreamsState(
        pruned_stream=_path_of(streams.pruned_stream).name,
        dense_stream=dense_name,
        may_differ=streams.may_differ,
        ridge_positions=dict(streams.ridge_positions),
        generator=tuple(streams.generator.get_state().tolist()),
    )


def _path_of(states: States) -> Path:
    """The file that has these hidden states, as all states of a run on disk are in files."""
    if not isinstance(states, StatesFile):
        raise TypeError(f"expected hidden states in a file, got {type(states).__name__}")
    return states.path


def _card(
    options: SaveOptions,
    parent_shape: Shape,
    ids: Tensor,
    settings: Settings,
    dense_losses: Sequence[float],
    small_losses: Sequence[float],
) -> Provenance:
    """The model card that `options` have, or a short one, with the perplexities that were measured."""
    card = options.card
    if card is None:
        text = f"{ids.shape[0]} x {ids.shape[1]} tokens"
        card = Provenance(options.name or "a model", parent_shape, text, asdict(settings))
    if options.windows is None:
        return card
    losses = torch.tensor([dense_losses, small_losses], dtype=torch.float64)
    before, after = losses.mean(1).exp().tolist()
    return replace(card, perplexities=((options.text, options.windows[:, 1:].numel(), before, after),))
