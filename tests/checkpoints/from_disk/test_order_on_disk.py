"""What progress.json names is on the disk before it is named: the order of writing, fsync and rename."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig
from variants import build, tokens

from comp_lib.checkpoints.from_disk.from_disk import prune_to
from comp_lib.checkpoints.from_disk.model_on_disk import ModelOnDisk
from comp_lib.checkpoints.tensors import TensorFiles
from comp_lib.decoder.own_widths.meta_model import make_meta_model
from comp_lib.pruning.settings import Settings


@pytest.fixture
def events(monkeypatch):
    """("write" or "fsync", file name) and ("named", names of files in progress.json), in their order."""
    calls_in_order = []
    real_open = Path.open
    real_replace = os.replace

    def recorded_open(path, mode="r", *arguments, **options):
        if mode in ("r+b", "xb"):
            calls_in_order.append(("write", path.name))
        return real_open(path, mode, *arguments, **options)

    def recorded_fsync(descriptor):
        calls_in_order.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    def recorded_replace(source, target):
        if Path(target).name == "progress.json":
            state = json.loads(Path(source).read_text("utf-8"))
            streams = state["streams"] or {}
            named = {streams.get("pruned_stream"), streams.get("dense_stream")} - {None}
            calls_in_order.append(("named", {*named, "model.safetensors"}))
        real_replace(source, target)

    monkeypatch.setattr(Path, "open", recorded_open)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return calls_in_order


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="needs the names of open files, as Linux has them"
)
def test_files_reach_the_disk_before_the_journal_names_them(tmp_path, tokenizer, events):
    build().save_pretrained(tmp_path / "parent")
    config = AutoConfig.from_pretrained(tmp_path / "parent")
    parent = ModelOnDisk(make_meta_model(config, torch.float32), TensorFiles(tmp_path / "parent"))
    events.clear()
    settings = Settings(ratio=0.3, drop_layers=1, multiple=4, widths="uniform", aim="dense")
    prune_to(tmp_path / "small", parent, tokenizer, tokens(), settings)
    unsaved = set()  # files that were written, and have not reached the disk yet
    records = 0
    for event, detail in events:
        if event == "write":
            unsaved.add(detail)
        elif event == "fsync":
            unsaved.discard(detail)
        else:
            records += 1
            laid_out = records > 1  # the first record is of the plan alone
            assert not laid_out or not unsaved & detail, (records, unsaved)
    assert records > 3
