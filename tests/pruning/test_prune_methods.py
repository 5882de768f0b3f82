"""Every method with every recovery, in each form in which the sums over tokens are kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from tools import SETTINGS, logits
from variants import build, tokens

from comp_lib.importance.neuron_metrics import METRICS
from comp_lib.importance.statistics.sums import MatrixStatistics
from comp_lib.pruning.comp import prune
from comp_lib.pruning.methods import RECOVERY_NAMES
from comp_lib.pruning.settings import PRESETS, Settings


# methods with a planner of their own are in test_baselines
@pytest.mark.parametrize(
    ("method", "recovery"),
    dict.fromkeys([*product(("comp", "wanda-sp"), RECOVERY_NAMES), *product(METRICS, ["mask"])]),
)
def test_every_method_runs_with_every_recovery(method, recovery):
    pruned = prune(build(), tokens(2, 16), replace(SETTINGS, method=method, recovery=recovery, kv_groups=1))
    assert pruned.plan.removed >= 0.25
    for entry in pruned.report.layers:
        assert (entry.mlp_ridge is not None) == (recovery in ("least-squares", "mask"))
        assert entry.mlp_error > 0.0
        assert entry.attention_error > 0.0


def test_comp_chooses_the_condition_by_the_recovery():
    assert Settings().completed().neuron_metric == "full-condition"
    assert (
        Settings(recovery="mask").completed().neuron_metric
        == Settings(recovery="none").completed().neuron_metric
        == "mask-condition"
    )
    assert Settings(method="wanda-sp", recovery="mask").completed().neuron_metric == "wanda-sp"


def test_the_papers_preset_is_a_hybrid_with_a_mask(tiny_llama):
    settings = Settings(**PRESETS["paper"] | {"ratio": 0.4, "drop_layers": 0.25, "multiple": 1})
    assert settings.completed().neuron_metric == "mask-condition"
    pruned = prune(tiny_llama(), torch.arange(64).view(2, 32), settings)
    assert len(pruned.plan.dropped) == 1
    assert len(set(pruned.plan.neurons)) > 1
    assert {layer.mlp_ridge / settings.ridge for layer in pruned.report.layers} <= {
        4.0**power for power in range(64)
    }


@pytest.mark.parametrize(
    ("part", "recovery"), [*product(["outputs"], RECOVERY_NAMES), ("inputs", "least-squares")]
)
def test_layers_that_do_nothing_break_no_recovery(part, recovery):
    """Models grown by identity blocks have layers whose output weights are zero."""
    parent = build()
    ids = tokens()
    attention = parent.model.layers[1].self_attn
    mlp = parent.model.layers[1].mlp
    linears = {"outputs": (attention.o_proj, mlp.down_proj), "inputs": (attention.v_proj, mlp.up_proj)}
    for linear in linears[part]:
        torch.nn.init.zeros_(linear.weight)
    for calibration in (ids, ids[:1, :12]):  # of many tokens sums are kept, few tokens are kept themselves
        pruned = prune(parent, calibration, replace(SETTINGS, recovery=recovery, kv_groups=1))
        assert logits(pruned.model, ids).isfinite().all()
        assert pruned.report.layers[1].mlp_error == pytest.approx(0.0, abs=1e-6)


OPTIONS = (
    {"aim": "dense", "kv_groups": 1},
    {"widths": "measured"},
    {"recovery": "mask"},
    {"method": "wanda-sp"},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_wide_layers_compute_in_float32_and_come_to_the_same(options, monkeypatch):
    ids = tokens(8, 24)
    settings = replace(SETTINGS, **options)
    double = prune(build(), ids, settings)
    monkeypatch.setattr("comp_lib.importance.statistics.sums.SINGLE_PRECISION_INPUTS", 8)
    dtypes = set()
    add_weighted = MatrixStatistics.add_weighted

    def recorded(self, x, y):
        dtypes.add(self.xtx.dtype)
        return add_weighted(self, x, y)

    monkeypatch.setattr(MatrixStatistics, "add_weighted", recorded)
    single = prune(build(), ids, settings)
    assert dtypes == {torch.float32}
    assert single.plan == double.plan
    for ours, expected in zip(single.model.parameters(), double.model.parameters(), strict=True):
        assert (ours - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize(("length", "matrices"), [(6, False), (15, True)])  # of 2 sequences; 32 and 48 inputs
def test_wide_layers_keep_matrices_from_half_as_many_tokens_on(length, matrices, monkeypatch):
    calls = []
    add_weighted = MatrixStatistics.add_weighted

    def recorded(self, x, y):
        calls.append(x)
        return add_weighted(self, x, y)

    monkeypatch.setattr("comp_lib.importance.statistics.sums.SINGLE_PRECISION_INPUTS", 8)
    monkeypatch.setattr(MatrixStatistics, "add_weighted", recorded)
    prune(build(), tokens(2, length), replace(SETTINGS, ridge=0.1))
    assert bool(calls) == matrices
