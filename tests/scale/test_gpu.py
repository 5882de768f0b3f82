"""With a card: the same plan and weights as on the CPU, and nothing left there. Without one: one line, no traceback.

What is marked gpu is skipped where torch finds no CUDA device; it has not run on the machines that this was written on,
where `test_cards` has a stand-in for one.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig
from variants import build, tokens

from comp_lib.errors import InputError
from comp_lib.prune import prune
from comp_lib.scale.model_on_disk import Streamed
from comp_lib.scale.prune_to import prune_to
from comp_lib.settings import Settings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CARD = torch.cuda.is_available()
needs_card = pytest.mark.skipif(not CARD, reason="no CUDA device here")
FEW, MANY = (2, 8), (8, 32)  # sequences and their length: fewer tokens than a dense layer has inputs, or more


@pytest.fixture
def gpu(monkeypatch):
    """The script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


@pytest.fixture
def folder(tmp_path):
    build("gqa").save_pretrained(tmp_path / "parent")
    return tmp_path / "parent"


def job(gpu, folder, how, device):
    out = str(folder.parent / f"out-{how}")
    return gpu.Job(device, how, str(folder), out, sequences=8, length=32, multiple=4)


def check_row(gpu, row):
    assert set(gpu.MEASURED) < row.keys() and row["tokens"] == 8 * 32 and row["removed"] > 0.0
    assert min(row["seconds"], row["least"], row["dense_seconds"], *row["rates"].values()) > 0.0
    assert row["seconds_in_layers"] <= row["seconds"]


@pytest.mark.skipif(CARD, reason="there is a card here")
def test_without_a_card_the_script_ends_with_one_line(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    out, error = capsys.readouterr()
    assert ended.value.code == 2 and not out
    (line,) = error.splitlines()
    assert line.startswith("expected a CUDA device, got none") and "run this where" in line


def test_other_devices_are_refused(gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    gpu.check("cuda")
    for device in ("cpu", "mps", "cuda:7"):
        with pytest.raises(InputError, match=f"expected .* got '{device}'"):
            gpu.check(device)


@pytest.mark.parametrize("how", ["memory", "files"])
def test_a_row_has_its_fields_on_the_cpu_too(gpu, folder, how):
    """The script's own code, but for the card."""
    row = gpu.measured(job(gpu, folder, how, "cpu"))
    check_row(gpu, row)
    assert row["device_megabytes"] == row["left_on_device_megabytes"] == 0.0


def test_the_script_from_end_to_end_but_for_the_card(gpu, folder, monkeypatch, capsys):
    """On the CPU, with a tiny model in the place of both; one row through a process of its own, as all are."""
    out, done = folder.parent / "gpu.json", gpu.run(job(gpu, folder, "memory", "cpu"))
    check_row(gpu, done)
    monkeypatch.setattr(gpu, "check", lambda device: None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "no card")
    monkeypatch.setattr(gpu, "SIZES", {"7b": replace(gpu.SIZES["7b"], hidden=64, neurons=192, heads=4, vocabulary=99)})
    monkeypatch.setattr(
        gpu, "run", lambda one: gpu.measured(replace(one, folder=one.folder or str(folder), multiple=4))
    )
    words = ["--device", "cpu", "--layers", "2", "--sequences", "4", "--length", "32", "--out", out]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words), "--work", str(folder.parent / "work")])
    for _ in range(2):  # the second takes the place of the first
        gpu.main()
    rows = json.loads(out.read_text("utf-8"))
    assert [(row["shape"], row["how"], row["card"]) for row in rows] == [
        (shape, how, "no card") for shape in ("135m", "7b") for how in ("memory", "files")
    ]
    assert (
        len(capsys.readouterr().out.splitlines()) == 2 * (1 + 2 + 4) and not (folder.parent / "work" / "gpu").exists()
    )


def test_fewer_layers_are_scaled_up_in_print(gpu):
    row = {"shape": "7b", "how": "memory", "layers": 4, "tokens": 8192, "dense_seconds": 1.0, "seconds": 5.0}
    row |= {"seconds_in_layers": 4.0, "least": 2.0, "device_megabytes": 10.0, "peak_megabytes": 20.0}
    head, found, scaled = gpu.table([row])
    assert len(gpu.table([row | {"shape": "135m"}])) == 2 and "ratio" in head
    assert found.split()[2:8] == ["4", "8,192", "1.00", "5.00", "2.00", "2.50"]
    assert scaled.split()[2:8] == ["32", "8,192", "8.00", "33.00", "16.00", "2.06"] and "not measured" in scaled


@needs_card
@pytest.mark.gpu
@pytest.mark.parametrize("aim", ["self", "dense"])
@pytest.mark.parametrize("size", [FEW, MANY], ids=["few tokens", "many"])
def test_a_card_prunes_as_the_cpu_does(aim, size):
    ids, pair = tokens(*size), []
    for device in ("cpu", "cuda"):
        settings = Settings(ratio=0.3, multiple=4, kv_groups=1, aim=aim, device=device)
        pair.append(prune(build("gqa"), ids, settings))
    one, other = pair
    assert one.plan == other.plan
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert theirs.device.type == "cpu"
        torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=1e-4)


@needs_card
@pytest.mark.gpu
def test_a_card_prunes_files_as_memory(folder, gpu):
    ids, settings = tokens(*MANY), Settings(ratio=0.3, multiple=4, device="cuda")
    out, model = folder.parent / "small", Streamed(folder, AutoConfig.from_pretrained(folder))
    assert (
        prune_to(out, model, importlib.import_module("scale").Nothing(), ids, settings).plan
        == prune(build("gqa"), ids, settings).plan
    )


@needs_card
@pytest.mark.gpu
@pytest.mark.parametrize("how", ["memory", "files"])
def test_a_row_of_a_card_has_its_fields_and_nothing_is_left(gpu, folder, how):
    row = gpu.measured(job(gpu, folder, how, "cuda"))
    check_row(gpu, row)
    assert row["device_megabytes"] > 0.0 and row["left_on_device_megabytes"] < 0.1


@needs_card
@pytest.mark.gpu
def test_nothing_stays_on_the_card():
    settings = Settings(ratio=0.3, multiple=4, device="cuda")
    prune(build("gqa"), tokens(*MANY), settings)  # libraries keep a workspace from the first time on
    gc.collect()
    before = torch.cuda.memory_allocated()
    done = prune(build("gqa"), tokens(*MANY), settings)
    gc.collect()
    assert torch.cuda.memory_allocated() == before and done.plan.removed > 0.0
