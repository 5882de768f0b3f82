"""Statistics of single layers against brute force on the tokens themselves."""

from __future__ import annotations

import pytest
import torch

from comp_lib.errors import InputError
from comp_lib.evaluation.loss import perplexity
from comp_lib.families import dense_layer
from comp_lib.importance.matrix_condition import sweep
from comp_lib.importance.neurons import metric, top
from comp_lib.lessons import cache
from comp_lib.lessons import dense_stream as study
from comp_lib.lessons import matrix_condition as trial
from comp_lib.statistics.gram import contributions
from comp_lib.statistics.solve import least_squares
from comp_lib.surgery import block_size, shallow_copy, shrink_mlp

pytestmark = pytest.mark.usefixtures("own_cache")

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def seen_by(linear, model, ids):
    """What a dense layer reads in an ordinary forward pass (T, n)."""
    seen = []
    hook = linear.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with torch.no_grad():
        hidden = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    hook.remove()
    return seen[0].flatten(0, 1), hidden


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("which", ["mlp", "attention"])
def test_statistics_of_a_layer_are_those_of_an_ordinary_forward_pass(tiny_llama, ids, layer, which):
    model = tiny_llama()
    module = study.layer_of(model, layer, which)
    linear = dense_layer(module, which)
    assert module is model.model.layers[layer] and block_size(module, which) == (1 if which == "mlp" else 16)
    x, hidden = seen_by(linear, model, ids)
    tokens = study.layer_tokens(model, ids, layer, which)
    torch.testing.assert_close(tokens["x"], x, **CLOSE)
    if which == "mlp":
        torch.testing.assert_close(tokens["norms"], hidden[layer + 1].flatten(0, 1).norm(dim=-1), **CLOSE)
    for weighted in (True, False):
        rows = x / tokens["norms"][:, None] if weighted else x
        xtx = study.dense_problem(model, ids, layer, which, weighted=weighted).xtx
        assert xtx.dtype == torch.float64
        torch.testing.assert_close(xtx.float(), rows.T @ rows, rtol=1e-3, atol=1e-4)
    dense = study.dense_problem(model, ids, layer, which, ridge=0.1, weighted=False)
    torch.testing.assert_close(dense.weight.float().T, linear.weight)
    assert dense.blocks == (48 if which == "mlp" else 2) and dense.ridge == 0.1
    assert torch.equal(dense.xtx, xtx) and dense.upstream.shape == (dense.blocks,)


def test_error_curves_are_the_errors_of_fits_from_scratch(tiny_llama, ids):
    model = tiny_llama()
    curves = study.survey(model, ids, ridge=0.1, block_rounds=8)
    assert curves["counts"].tolist() == [0, 8, 16, 24]  # 60% of 48 neurons
    assert curves["group_counts"].tolist() == [0, 1]
    assert curves["errors"].shape == (3, 4) and curves["group_errors"].shape == (3, 2)
    assert (curves["errors"][:, 0] == 0).all() and (curves["errors"].diff(dim=1) > 0).all()
    for layer in range(3):
        dense = study.dense_problem(model, ids, layer)
        _, inverse = dense.full_problem()
        order = study.sweep(inverse, dense.weight, 24, per_round=8).order
        for place, count in enumerate(curves["counts"].tolist()):
            kept = torch.tensor(sorted(set(range(48)) - set(order[:count].tolist())))
            fitted = least_squares(dense.xtx, dense.xtx @ dense.weight, dense.weight, kept, 0.1)
            gap = dense.weight - fitted
            error = (gap * (dense.xtx @ gap)).sum() / (dense.weight * (dense.xtx @ dense.weight)).sum()
            assert float(curves["errors"][layer, place]) == pytest.approx(float(error), rel=1e-6, abs=1e-12)


def test_error_curves_stop_where_a_layer_is_too_narrow(tiny_llama, ids):
    from comp_lib.surgery import shrink_attention, shrink_mlp

    model = tiny_llama()
    shrink_mlp(model.model.layers[1], torch.arange(20))
    shrink_attention(model.model.layers[1], torch.tensor([1]))
    curves = study.survey(model, ids, block_rounds=8)
    assert curves["errors"].isnan().tolist() == [[False] * 4, [False, False, False, True], [False] * 4]
    assert curves["group_errors"].isnan().tolist() == [[False] * 2, [False, True], [False] * 2]


def test_statistics_are_computed_once(tiny_llama, ids, monkeypatch):
    model = tiny_llama()
    first = study.survey(model, ids, block_rounds=8), study.dense_problem(model, ids, 1)
    entries, _ = cache.cache_size()
    assert entries == 2
    monkeypatch.setattr(study, "walk_to", None)  # nobody walks again
    again = study.survey(model, ids, block_rounds=8), study.dense_problem(model, ids, 1)
    assert torch.equal(first[0]["errors"], again[0]["errors"]) and torch.equal(first[1].xtx, again[1].xtx)
    study.dense_problem(model, ids, 1, "attention", weighted=False)


def test_what_is_not_there_is_named(tiny_llama, ids):
    model = tiny_llama()
    with pytest.raises(InputError, match="layer from 0 to 2, got 3"):
        study.dense_problem(model, ids, 3)
    with pytest.raises(InputError, match="'mlp' or 'attention', got 'mpl'"):
        study.layer_tokens(model, ids, 0, "mpl")
    with pytest.raises(InputError, match="at least 1 neuron a round, got 0"):
        study.survey(model, ids, block_rounds=0)


# metrics on trial


@pytest.fixture(scope="session")
def other(ids):
    return torch.randint(512, (3, 24), generator=torch.Generator().manual_seed(9))


def test_readings_are_what_they_say(tiny_llama, ids):
    dense = study.dense_problem(tiny_llama(), ids, 1)
    found = trial.readings(dense)
    assert list(found) == list(trial.READINGS) and all(scores.shape == (48,) for scores in found.values())
    gram = contributions(dense.xtx, dense.weight)
    output = float((dense.weight * (dense.xtx @ dense.weight)).sum())
    assert float(found["share of output"].sum()) == pytest.approx(output)
    torch.testing.assert_close(found["energy"], gram.diagonal())
    energy = 1.1 * dense.xtx.diagonal() * dense.weight.square().sum(1)
    torch.testing.assert_close(energy * found["condition alone"].square(), found["full-condition"])
    chosen = metric("mask-condition")(dense, 40, torch.Generator())
    torch.testing.assert_close(found["mask-condition"], chosen.scores)
    assert list(trial.readings(dense, ("energy",))) == ["energy"]


def test_condition_changes_by_brute_force(tiny_llama, ids):
    xtx = study.dense_problem(tiny_llama(), ids, 1).xtx[:8, :8]
    changes = trial.condition_changes(xtx)
    without = torch.tensor([i for i in range(8) if i != 3])
    want = torch.linalg.cond(xtx) / torch.linalg.cond(xtx[without][:, without])
    assert float(changes[3]) == pytest.approx(float(want), rel=1e-6) and (changes >= 1.0 - 1e-9).all()


def test_single_removals_are_measured_on_the_tokens(tiny_llama, ids, other):
    model = tiny_llama()
    found = trial.single_removals(model, ids, other, 1, [3, 40])
    dense = study.dense_problem(model, ids, 1)
    for place, neuron in enumerate((3, 40)):
        kept = torch.tensor([i for i in range(48) if i != neuron])
        fitted = least_squares(dense.xtx, dense.xtx @ dense.weight, dense.weight, kept, 0.1)
        for text, name in ((ids, "retuned"), (other, "unseen")):
            tokens = study.layer_tokens(model, text, 1)
            x = (tokens["x"] / tokens["norms"][:, None]).double()
            error = (x @ (dense.weight - fitted)).square().sum() / (x @ dense.weight).square().sum()
            assert float(found[name][place]) == pytest.approx(float(error), rel=1e-3)
    scores = trial.readings(dense, ("full-condition",))["full-condition"][[3, 40]]
    output = float((dense.weight * (dense.xtx @ dense.weight)).sum())
    torch.testing.assert_close(found["objective"], scores / output, rtol=1e-4, atol=0.0)


def test_two_texts_have_two_results(tiny_llama, ids):
    """Even if a sum of their tokens, each times its place, is the same."""
    model = tiny_llama()
    texts = [torch.tensor([[1, 2, 7, 7]]), torch.tensor([[3, 1, 7, 7]])]
    errors = [float(trial.single_removals(model, ids, text, 1, [3])["unseen"]) for text in texts]
    assert errors[0] != errors[1]


def test_choices_are_judged_on_both_texts(tiny_llama, ids, other):
    model = tiny_llama()
    names = (*trial.READINGS, trial.ONE_LOOK)
    found = trial.choice_errors(model, ids, other, 1, 12, names=names)
    assert set(found) == {*names, *(f"kept:{name}" for name in names)}
    for name in names:
        plain, tuned, unseen = found[name].tolist()
        assert len(found[f"kept:{name}"]) == 36 and 0 < tuned < plain and unseen > 0
    assert float(found["full-condition"][1]) < min(float(found[name][1]) for name in ("random", "magnitude"))
    same = trial.choice_errors(model, ids, ids, 1, 12, names=("energy",))["energy"]
    assert float(same[1]) == pytest.approx(float(same[2]))


def test_ridge_errors_are_those_of_the_choices(tiny_llama, ids, other):
    model = tiny_llama()
    found = trial.ridge_errors(model, ids, other, 1, 12, (1e-3, 1.0))
    for place, ridge in enumerate((1e-3, 1.0)):
        same = trial.choice_errors(model, ids, other, 1, 12, ridge, names=("full-condition",))["full-condition"]
        assert float(found["seen"][place]) == pytest.approx(float(same[1]), rel=1e-5)
        assert float(found["unseen"][place]) == pytest.approx(float(same[2]), rel=1e-5)
        dense = study.dense_problem(model, ids, 1)
        even = ridge * dense.xtx.diagonal().mean() * torch.eye(48, dtype=torch.float64)
        order = sweep(torch.linalg.inv(dense.xtx + even), dense.weight, 12).order.tolist()
        kept = [i for i in range(48) if i not in order]
        inner = (dense.xtx + even)[kept][:, kept]
        gap = dense.weight.clone()
        gap[kept] -= torch.linalg.solve(inner, (dense.xtx @ dense.weight + even @ dense.weight)[kept])
        for text, name in ((ids, "even seen"), (other, "even unseen")):
            xtx = study.dense_problem(model, text, 1).xtx
            error = (gap * (xtx @ gap)).sum() / (dense.weight * (xtx @ dense.weight)).sum()
            assert float(found[name][place]) == pytest.approx(float(error), rel=1e-4)
    assert found["condition"][0] > found["condition"][1] > 1.0


def test_weighting_errors_are_measured_both_ways(tiny_llama, ids, other):
    model = tiny_llama()
    found = trial.weighting_errors(model, ids, other, 1, 12)
    same = trial.choice_errors(model, ids, other, 1, 12, names=("full-condition",))["full-condition"]
    assert float(found[0, 0]) == pytest.approx(float(same[2]), rel=1e-5)
    dense = study.dense_problem(model, ids, 1, weighted=False)
    fitted = metric("full-condition")(dense, 36, torch.Generator()).retuned
    for column, weighted in enumerate((True, False)):
        tokens = study.layer_tokens(model, other, 1)
        x = (tokens["x"] / tokens["norms"][:, None] if weighted else tokens["x"]).double()
        error = (x @ (dense.weight - fitted)).square().sum() / (x @ dense.weight).square().sum()
        assert float(found[1, column]) == pytest.approx(float(error), rel=1e-4)


def test_perplexities_are_those_of_the_pruned_models(tiny_llama, ids, other):
    model = tiny_llama()
    found = trial.metric_perplexities(model, ids, other, (1, 2), 0.25, names=("full-condition", "random"))
    assert set(found) == {"full-condition", "random", "dense"}
    assert float(found["dense"]) == pytest.approx(perplexity(model, other).perplexity, rel=1e-5)
    pruned = shallow_copy(model)
    for layer in (1, 2):
        dense = study.dense_problem(model, ids, layer)
        kept = top(trial.readings(dense, ("random",))["random"], 36).kept
        shrink_mlp(pruned.model.layers[layer], kept)
    assert float(found["random"][0]) == pytest.approx(perplexity(pruned, other).perplexity, rel=1e-5)
    assert float(found["random"][1]) != float(found["random"][0])
