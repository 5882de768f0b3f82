"""Finished layers and hidden states of a run on disk, in the files of the new model and beside them.

What the journal of the run names is on the disk before it is named, with a checksum.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...decoder.types import Layer, Model
from ...decoder.weight_names import EMBEDDING, HEAD
from ...hybrid_granularity.plan import Plan
from ...pruning.prune_layer import CarriedState, States
from ...pruning.report import LayerReport
from ...pruning.sink import Sink
from ...utils.errors import InputError, refusing
from ...utils.files import fsync
from ...utils.hashes import checksum_of_file
from .model_on_disk import TOKENS_OF_A_PIECE, ModelOnDisk
from .run_state import BEGIN_ANEW_HINT, EXPECTED_PROGRESS, CarriedFiles
from .work_folder import Journal, StatesFile, lay_out, write_rows


class DiskSink(Sink):
    """A sink that writes layers to the files of the new model, and hidden states to other files."""

    def __init__(
        self,
        journal: Journal,
        parent: ModelOnDisk,
        plan: Plan,
        meta_model: Model,
        text_shape: tuple[int, int],
    ) -> None:
        """Lay out the files of the new model, and check what is finished.

        Args:
            journal: says what is finished.
            parent: the model that is pruned.
            plan: how much of each layer stays.
            meta_model: the new model without its numbers, in the dtype of its files.
            text_shape: how many sequences calibrate, and the tokens of each.

        Raises InputError where something that is finished is gone or damaged.
        """
        self.journal = journal
        self.parent = parent
        self.plan = plan
        self.dtype = meta_model.dtype
        self.text_shape = text_shape
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

    def resume(self) -> tuple[CarriedState | None, list[LayerReport | None]]:
        carried_files = self.journal.state.streams
        if carried_files is None:
            self._write_frame()
            return None, []
        shape = (*self.text_shape, self.parent.shape.hidden_size)
        dense_stream = None
        if carried_files.dense_stream is not None:
            dense_stream = StatesFile(
                self.journal.work / carried_files.dense_stream, shape, self.parent.dtype
            )
        generator = torch.Generator()
        with refusing(EXPECTED_PROGRESS, f"{self.journal.work}: generator", BEGIN_ANEW_HINT):
            generator.set_state(torch.tensor(carried_files.generator, dtype=torch.uint8))
        resumed = CarriedState(
            pruned_stream=StatesFile(
                self.journal.work / carried_files.pruned_stream, shape, self.parent.dtype
            ),
            dense_stream=dense_stream,
            may_differ=carried_files.may_differ,
            ridge_positions=dict(carried_files.ridge_positions),
            generator=generator,
        )
        return resumed, self.reports()

    def put(self, index: int, layer: Layer, report: LayerReport | None, carried: CarriedState) -> None:
        state_paths = {_path_of(carried.pruned_stream)}
        if carried.dense_stream is not None:
            state_paths.add(_path_of(carried.dense_stream))
        written_names = []
        if report is not None:
            position = self.plan.layers.index(index)
            for name, weight in layer.state_dict().items():
                written_names.append(f"model.layers.{position}.{name}")
                self._write(written_names[-1], self._convert(f"model.layers.{index}.{name}", weight))
        self._flush(written_names)
        carried_files = None
        checksums = dict(self.checksums)
        if index + 1 < self.parent.shape.layer_count:  # nothing needs the streams after the last layer
            carried_files = _files_of(carried)
            for path in sorted(state_paths):
                fsync(path)
                checksums[path.name] = checksum_of_file(path)
        self.journal.record(
            layers=(*self.journal.state.layers, report), streams=carried_files, checksums=checksums
        )

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
        files = self.parent.files
        for name in self.slots:
            if name in (EMBEDDING, HEAD):
                for rows in torch.arange(files.shapes[name][0]).split(TOKENS_OF_A_PIECE):
                    self._write(name, files.read(name, self.dtype, rows), int(rows[0]))
            elif ".layers." not in name:
                self._write(name, files.read(name, self.dtype))
        self._flush([name for name in self.slots if ".layers." not in name])

    def _write(self, name: str, rows: Tensor, first_row: int = 0) -> None:
        """Write rows of a tensor to its file.

        The disk may not have them yet.
        """
        write_rows(self.slots[name], rows, first_row)

    def _flush(self, names: Sequence[str]) -> None:
        """Let written tensors reach the disk, and note their checksums."""
        for path in sorted({self.slots[name].path for name in names}):
            fsync(path)
        for name in names:
            slot = self.slots[name]
            self.checksums[name] = checksum_of_file(slot.path, slot.start, slot.size)


def _files_of(carried: CarriedState) -> CarriedFiles:
    """What one layer leaves to the next, as the journal holds it."""
    dense_name = None
    if carried.dense_stream is not None:
        dense_name = _path_of(carried.dense_stream).name
    return CarriedFiles(
        pruned_stream=_path_of(carried.pruned_stream).name,
        dense_stream=dense_name,
        may_differ=carried.may_differ,
        ridge_positions=dict(carried.ridge_positions),
        generator=tuple(carried.generator.get_state().tolist()),
    )


def _path_of(states: States) -> Path:
    """The file that has these hidden states, as all states of a run on disk are in files."""
    if not isinstance(states, StatesFile):
        raise TypeError(f"expected hidden states in a file, got {type(states).__name__}")
    return states.path
