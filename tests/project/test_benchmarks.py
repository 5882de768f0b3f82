"""The scripts of benchmarks/: all start, and a run has at least the work that is counted."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from variants import build, tokens

from comp_lib.checkpoints.wheels import WHEELS
from comp_lib.decoder.shape import Shape
from comp_lib.importance.statistics.sums import MatrixStatistics
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "common")
SETTINGS = Settings(ratio=0.2, multiple=4, drop_layers=0, widths="uniform", aim="self")


@pytest.fixture
def script(monkeypatch):
    """Imports a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_says_what_it_can_be_asked(script, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ending:
        script(name).main()
    assert ending.value.code == 0
    assert f"usage: {name}.py" in capsys.readouterr().out


# --- models.py --------------------------------------------------------------------------------------------


def test_models_of_the_benchmarks_are_no_names_of_the_library(script, monkeypatch):
    def nothing_installed(package):
        raise importlib.metadata.PackageNotFoundError(package)

    models = script("models")
    monkeypatch.setattr(importlib.metadata, "files", nothing_installed)
    assert not set(models.MODELS) & set(WHEELS)
    assert models.located("smollm2-135m") == "smollm2-135m"
    for name, model in models.MODELS.items():
        with pytest.raises(InputError, match=f"the package {model.packages[0]} for '{name}'") as refusal:
            models.located(name)
        assert model.install in str(refusal.value)
        assert "==" in model.install, "a version, since the parts belong together"


# --- first_hour.py ----------------------------------------------------------------------------------------

SPEAKS_TWICE = "import time; print('begin', flush=True); time.sleep(0.4); print('end')"


def test_a_command_is_timed_with_its_longest_silence_(script, tmp_path):
    row = script("first_hour").timed([sys.executable, "-c", SPEAKS_TWICE], tmp_path)
    assert 0.4 <= row["longest_silence"] <= row["seconds"]


def test_a_home_without_a_cache_is_what_a_failing_command_saw(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LIB_CACHE", "elsewhere")
    failing = "import os, sys; sys.exit(os.environ['HOME'] + str('COMP_LIB_CACHE' in os.environ))"
    with pytest.raises(subprocess.CalledProcessError):
        script("first_hour").timed([sys.executable, "-c", failing], tmp_path)
    assert f"{tmp_path}False" in capsys.readouterr().err


def test_the_table_of_the_first_hour_is_in_seconds_and_dense_passes(script):
    row = {"seconds": 90.0, "cpu_seconds": 150.0, "longest_silence": 4.2}
    content = {
        "model": "tiny",
        "machine": {"cpu": "a processor", "cores": 2, "load": 0.1},
        "dense_pass": [10.0, 9.0],
        "commands": {"demo": row, "prune": row},
    }
    lines = script("first_hour").table(content).splitlines()
    assert lines[2:4] == ["| `demo` | 90 | 180 | 150 | 4 | 10 |", "| `prune` | 90 | - | 150 | 4 | 10 |"]
    assert lines[-1].startswith(
        "tiny, 2 cores (a processor), load 0.1 before. One dense pass over 8,192 tokens"
    )


# --- limit.py ---------------------------------------------------------------------------------------------


def run_of(limit, model, ids, settings=SETTINGS):
    plan = prune(model, ids, SETTINGS).plan
    return limit.Run(Shape.of(model), plan, *ids.shape, stored=1000, saved=4)


def counted(work):
    """Operations that torch counts in `work()`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def test_a_pass_is_what_torch_counts(script):
    model = build("gqa")
    ids = tokens(4, 16)
    run = run_of(script("limit"), model, ids)
    layer = model.model.layers[0]
    hidden = torch.randn(*ids.shape, run.shape.hidden_size, generator=torch.Generator().manual_seed(0))
    assert run.through_mlp(run.shape.neurons[0]).model == counted(lambda: layer.mlp(hidden))
    queries = run.shape.kv_groups[0] * run.shape.group_heads * run.shape.head_dim
    scores = 2.0 * ids.numel() * 16 * queries  # which torch does not count on a CPU
    rope = model.model.rotary_emb(hidden, torch.arange(16)[None])
    attention = partial(layer.self_attn, hidden, position_embeddings=rope, attention_mask=None)
    assert run.through_attention(run.shape.kv_groups[0]).model - scores == counted(attention)


def test_half_of_a_symmetric_product_is_enough(script):
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    run = run_of(script("limit"), build("gqa"), tokens(8, 64))
    assert 2 * run.sums(48).single == counted(lambda: MatrixStatistics.zeros(48).add(x)) * run.tokens / 64


@pytest.mark.parametrize("size", [(2, 8), (8, 32)], ids=["few tokens", "many"])
def test_no_run_multiplies_less(script, size):
    model = build("gqa")
    ids = tokens(*size)
    work = run_of(script("limit"), model, ids).work()  # factors, inverses and solves are not in torch's count
    assert 0 < work.model + work.single < counted(lambda: prune(model, ids, SETTINGS))


@pytest.mark.parametrize("name, seeds", [("smollm2-135m", 3), ("another", 1)])
def test_only_the_parts_that_are_asked_for_are_measured(script, name, seeds, tiny_llama):
    ablation = script("ablation")
    runs = ablation.grid(tiny_llama(), name, ["COMP", "metric: energy"])
    assert [run[0] for run in runs] == seeds * ["COMP", "metric: energy"]
    assert all("ratio" not in changes for _, changes, _ in runs)
    assert len(ablation.grid(tiny_llama(), name)) > 4 * seeds


def test_a_layer_pruned_by_the_dense_stream_is_as_where_no_layer_before_it_is_pruned(script):
    model = build("gqa")
    ids = tokens(8, 32)
    pruned = script("ablation").prune_by_dense_stream(model, ids, SETTINGS)
    full_width = Shape.of(model).neurons[0]
    last = len(pruned.plan.neurons) - 1
    alone = replace(
        pruned.plan,
        neurons=(full_width,) * last + pruned.plan.neurons[-1:],
        kept_neurons=None,
        kept_groups=None,
    )
    expected = prune(model, ids, SETTINGS, plan=alone).model.model.layers[last].mlp.down_proj.weight
    torch.testing.assert_close(pruned.model.model.layers[last].mlp.down_proj.weight, expected)
    behind_smaller_layers = prune(model, ids, SETTINGS).model.model.layers[last].mlp.down_proj.weight
    assert not torch.allclose(behind_smaller_layers, expected, rtol=1e-2)
