"""Metrics of neurons and KV groups: each against its own formula, on the tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import inputs_and_weights, normal
from variants import build

from comp_lib.importance.matrix_condition import condition_numbers
from comp_lib.importance.neuron_metrics import METRICS, full_condition, keep_highest, mask_condition
from comp_lib.importance.problem import Problem, upstream_norms
from comp_lib.importance.statistics.few_tokens import TokenStatistics
from comp_lib.importance.statistics.solve import least_squares
from comp_lib.importance.statistics.sums import MatrixStatistics, contributions
from comp_lib.recovery.mask_tuning import solve_mask

quick = settings(derandomize=True, deadline=None, max_examples=20)
CLOSE = {"rtol": 1e-6, "atol": 1e-8}
LOOSE = {"rtol": 1e-4, "atol": 1e-4}  # for sums in single precision
seeds = st.integers(0, 10**6)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(seed: int, blocks: int, size: int = 1, m: int = 4, ridge: float = 1e-2):
    """Tokens X (T, n) of unequal energy, and the problem that the metrics see."""
    n = blocks * size
    x, weight = inputs_and_weights(seed, n, m, spare=20)
    owned = normal(seed + 3, n // size).square()
    sums = {
        "input_sum": x.sum(0),
        "weighted_input_sum": x.sum(0),
        "squared_weight_sum": torch.tensor(float(len(x))),
    }
    statistics = replace(MatrixStatistics.of(x.T @ x), **sums, token_count=len(x))
    return x, Problem(statistics, weight, lambda: owned, size, ridge)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_keeps_as_many_blocks_as_asked(name, size):
    _, problem = layer(0, 7, size)
    for keep in (7, 6, 3, 1):
        selection = METRICS[name](problem, keep, rng())
        kept = selection.kept.tolist()
        assert len(kept) == keep
        assert kept == sorted(set(kept))
        assert set(kept) <= set(range(7))
        assert selection.scores.shape == (7,)
        assert selection.scores.isfinite().all()
        if selection.swept is None:
            assert min(selection.scores[kept]) >= max(
                selection.scores[[i for i in range(7) if i not in kept]], default=0.0
            )


@pytest.mark.parametrize("size", [1, 3])
def test_scores_of_the_metrics_that_only_look(size):
    x, problem = layer(1, 5, size)
    blocks = [slice(g * size, (g + 1) * size) for g in range(5)]
    w = problem.weight
    brute = {
        "activation": [x[:, b].norm() for b in blocks],
        "wanda-sp": [sum(w[i].abs().sum() * x[:, i].norm() for i in range(b.start, b.stop)) for b in blocks],
        "energy": [
            sum(torch.outer(x[:, i], w[i]).square().sum() for i in range(b.start, b.stop)).sqrt()
            for b in blocks
        ],
        "magnitude": [
            (problem.upstream_norms()[i] + w[b].square().sum()).sqrt() for i, b in enumerate(blocks)
        ],
    }
    # each other one has a test of its own below
    assert METRICS.keys() - brute.keys() == {"random", "mask-condition", "full-condition"}
    for name, scores in brute.items():
        torch.testing.assert_close(METRICS[name](problem, 2, rng()).scores, torch.stack(scores), **CLOSE)


def test_a_metric_may_multiply_c_and_w_in_either_form_of_the_statistics():
    x, problem = layer(1, 5)
    few = TokenStatistics.zeros(5)
    few.add(x[None].float())
    for statistics in (problem.statistics, few):
        weight = problem.weight.to(statistics.precision)
        problem_here = replace(problem, statistics=statistics, weight=weight)
        torch.testing.assert_close(
            (problem_here.xtx @ problem_here.weight).double(), x.T @ x @ problem.weight, **LOOSE
        )


def test_magnitude_is_blind_to_the_data_and_activation_to_the_weights():
    _, problem = layer(1, 5)
    _, other_problem = layer(8, 5)
    same_weights = Problem(other_problem.statistics, problem.weight, problem.upstream_norms)
    same_data = Problem(problem.statistics, other_problem.weight, other_problem.upstream_norms)
    assert torch.equal(
        METRICS["magnitude"](problem, 2, rng()).scores, METRICS["magnitude"](same_weights, 2, rng()).scores
    )
    assert torch.equal(
        METRICS["activation"](problem, 2, rng()).scores, METRICS["activation"](same_data, 2, rng()).scores
    )


def test_random_follows_its_generator_only():
    _, problem = layer(1, 40)
    _, other_problem = layer(2, 40)
    first = METRICS["random"](problem, 20, rng(5)).kept
    assert torch.equal(first, METRICS["random"](other_problem, 20, rng(5)).kept)
    assert not torch.equal(first, METRICS["random"](problem, 20, rng(6)).kept)


def test_equal_scores_keep_the_earlier_block():
    assert keep_highest(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2).kept.tolist() == [0, 1]
    assert keep_highest(torch.full((40,), 3.0), 4).kept.tolist() == [0, 1, 2, 3]


@quick
@given(seed=seeds, blocks=st.integers(2, 20), size=st.integers(1, 3), data=st.data())
def test_full_condition_brings_the_least_squares_weights(seed, blocks, size, data):
    keep = data.draw(st.integers(1, blocks))
    _, problem = layer(seed, blocks, size)
    selection = full_condition(problem, keep, rng())
    inputs = torch.tensor([g * size + j for g in selection.kept.tolist() for j in range(size)])
    expected = least_squares(problem.xtx, problem.xtx @ problem.weight, problem.weight, inputs, problem.ridge)
    torch.testing.assert_close(selection.swept.weights, expected, **CLOSE)


@pytest.mark.parametrize("size", [1, 3])
def test_keeping_everything_changes_nothing(size):
    _, problem = layer(4, 6, size)
    selection = full_condition(problem, 6, rng())
    assert torch.equal(selection.swept.weights, problem.weight)
    assert selection.kept.tolist() == list(range(6))
    assert torch.equal(
        mask_condition(problem, 6, rng()).swept.weights, torch.ones(6 * size, 1, dtype=torch.float64)
    )


@quick
@given(seed=seeds, n=st.integers(2, 20), data=st.data())
def test_sweep_of_the_mask_condition_is_the_tuned_mask(seed, n, data):
    keep = data.draw(st.integers(1, n))
    _, problem = layer(seed, n)
    selection = mask_condition(problem, keep, rng())
    expected = solve_mask(contributions(problem.xtx, problem.weight), selection.kept, problem.ridge)
    torch.testing.assert_close(selection.swept.weights[selection.kept, 0], expected, **CLOSE)


@quick
@given(seed=seeds, n=st.integers(2, 9), ridge=st.sampled_from([1e-6, 1e-2, 1.0]))
def test_scores_are_energy_divided_by_condition_squared(seed, n, ridge):
    """One block: s = energy / kappa^2, energy with its share of the ridge, for H = C + D and H = G + D."""
    x, problem = layer(seed, n, ridge=ridge)
    energy = (1.0 + ridge) * problem.xtx.diagonal() * problem.weight.square().sum(1)
    for choose, gram in ((full_condition, x.T @ x), (mask_condition, contributions(x.T @ x, problem.weight))):
        matrix = gram + ridge * torch.diag(gram.diagonal())
        kappa = condition_numbers(matrix.diagonal(), torch.linalg.inv(matrix).diagonal())
        torch.testing.assert_close(choose(problem, 1, rng()).scores, energy / kappa.square(), **CLOSE)


@pytest.mark.parametrize("choose", [full_condition, mask_condition])
def test_a_loud_neuron_with_a_twin_goes_before_a_quiet_one_without(choose):
    """The condition differs here from every metric of size."""
    x = torch.linalg.qr(normal(0, 30, 5)).Q * torch.tensor([10.0, 1.0, 1.5, 2.0, 2.5], dtype=torch.float64)
    x[:, 4] = x[:, 0]
    w = torch.eye(5, dtype=torch.float64)
    w[4] = w[0]
    problem = Problem(MatrixStatistics.of(x.T @ x), w, lambda: torch.ones(5, dtype=torch.float64), ridge=1e-6)
    kept = choose(problem, 4, rng()).kept.tolist()
    assert kept in ([0, 1, 2, 3], [1, 2, 3, 4])
    assert METRICS["energy"](problem, 4, rng()).kept.tolist() == [0, 2, 3, 4]
    assert METRICS["wanda-sp"](problem, 4, rng()).kept.tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dead", ["inputs", "weights", "some"])
def test_dead_neurons_break_no_metric(name, dead):
    _, problem = layer(4, 6)
    alive = torch.ones(6, dtype=torch.float64)
    alive[[1, 3] if dead == "some" else slice(None)] = 0.0
    if dead != "weights":
        problem = Problem(
            MatrixStatistics.of(problem.xtx * torch.outer(alive, alive)),
            problem.weight,
            problem.upstream_norms,
        )
    if dead == "weights":
        problem = Problem(problem.statistics, torch.zeros_like(problem.weight), problem.upstream_norms)
    selection = METRICS[name](problem, 4, rng())
    assert selection.scores.isfinite().all()
    if dead == "some" and name not in ("random", "magnitude"):
        assert selection.kept.tolist() == [0, 2, 4, 5]
    assert selection.swept is None or selection.swept.weights.isfinite().all()


def test_the_variance_of_an_input_has_the_weights_of_the_tokens():
    x, _ = inputs_and_weights(3, 5, 4, spare=20)
    weights = normal(4, len(x)).abs()
    statistics = MatrixStatistics.zeros(5)
    statistics.add(x, token_weight=weights)
    shares = weights.square() / weights.square().sum()  # C has the squares of the weights
    centred = x - shares @ x
    torch.testing.assert_close(statistics.variance(), shares @ centred.square(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mha", "gqa", "mqa", "head-dim", "qwen2"])
def test_upstream_norms_count_what_a_block_owns(name):
    decoder_layer = build(name).model.layers[0]
    attention = decoder_layer.self_attn
    mlp = decoder_layer.mlp
    rows = [torch.cat([mlp.gate_proj.weight[i], mlp.up_proj.weight[i]]) for i in range(48)]
    expected = torch.stack([row.double().square().sum() for row in rows])
    torch.testing.assert_close(upstream_norms(decoder_layer, "mlp"), expected)
    head = attention.head_dim
    repeats = attention.num_key_value_groups
    queries, keys, values = (
        part.weight.double().square().sum(1).reshape(-1, head)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    # query head h reads KV head h // repeats
    expected = (keys + values).sum(1) + queries.sum(1).reshape(-1, repeats).sum(1)
    torch.testing.assert_close(upstream_norms(decoder_layer, "attention"), expected)
