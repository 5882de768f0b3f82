"""Statistics of single layers against brute force on the tokens themselves."""

from __future__ import annotations

import pytest
import torch

from comp_lib import cache
from comp_lib.errors import InputError
from comp_lib.recover import least_squares
from comp_lib.studies import neurons as study

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))


@pytest.fixture(scope="session")
def ids():
    return torch.randint(512, (6, 24), generator=torch.Generator().manual_seed(1))


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
    linear, block = study.dense_layer(model, layer, which)
    assert block == (1 if which == "mlp" else 16)
    x, hidden = seen_by(linear, model, ids)
    tokens = study.layer_tokens(model, ids, layer, which)
    torch.testing.assert_close(tokens["x"], x, **CLOSE)
    if which == "mlp":
        torch.testing.assert_close(tokens["norms"], hidden[layer + 1].flatten(0, 1).norm(dim=-1), **CLOSE)
    for weighted in (True, False):
        rows = x / tokens["norms"][:, None] if weighted else x
        xtx = study.layer_gram(model, ids, layer, which, token_weights=weighted)["xtx"]
        assert xtx.dtype == torch.float64
        torch.testing.assert_close(xtx.float(), rows.T @ rows, rtol=1e-3, atol=1e-4)
    dense = study.dense_problem(model, ids, layer, which, ridge=0.1, token_weights=False)
    torch.testing.assert_close(dense.weight.float().T, linear.weight)
    assert dense.blocks == (48 if which == "mlp" else 2) and dense.ridge == 0.1
    assert torch.equal(dense.xtx, xtx) and dense.upstream.shape == (len(xtx),)


def test_error_curves_are_the_errors_of_fits_from_scratch(tiny_llama, ids):
    model = tiny_llama()
    curves = study.error_curves(model, ids, ridge=1e-2, block_rounds=8)
    assert curves["counts"].tolist() == [0, 8, 16, 24]  # 60% of 48 neurons
    assert curves["group_counts"].tolist() == [0, 1]
    assert curves["errors"].shape == (3, 4) and curves["group_errors"].shape == (3, 2)
    assert (curves["errors"][:, 0] == 0).all() and (curves["errors"].diff(dim=1) > 0).all()
    for layer in range(3):
        dense = study.dense_problem(model, ids, layer)
        _, inverse, ridge = dense.full_problem()
        order = study.sweep(inverse, dense.weight, 24, per_round=8).order
        for place, count in enumerate(curves["counts"].tolist()):
            kept = torch.tensor(sorted(set(range(48)) - set(order[:count].tolist())))
            fitted, _ = least_squares(dense.xtx, dense.xtx @ dense.weight, dense.weight, kept, 1e-2)
            gap = dense.weight - fitted
            error = (gap * (dense.xtx @ gap)).sum() / (dense.weight * (dense.xtx @ dense.weight)).sum()
            assert float(curves["errors"][layer, place]) == pytest.approx(float(error), rel=1e-6, abs=1e-12)


def test_error_curves_stop_where_a_layer_is_too_narrow(tiny_llama, ids):
    from comp_lib.surgery import shrink_attention, shrink_mlp

    model = tiny_llama()
    shrink_mlp(model.model.layers[1], torch.arange(20))
    shrink_attention(model.model.layers[1], torch.tensor([1]))
    curves = study.error_curves(model, ids, block_rounds=8)
    assert curves["errors"].isnan().tolist() == [[False] * 4, [False, False, False, True], [False] * 4]
    assert curves["group_errors"].isnan().tolist() == [[False] * 2, [False, True], [False] * 2]


def test_statistics_are_computed_once(tiny_llama, ids, monkeypatch):
    model = tiny_llama()
    first = study.error_curves(model, ids, block_rounds=8), study.layer_gram(model, ids, 1)
    entries, _ = cache.cache_size()
    assert entries == 2
    monkeypatch.setattr(study, "_into", None)  # nobody walks again
    again = study.error_curves(model, ids, block_rounds=8), study.layer_gram(model, ids, 1)
    assert torch.equal(first[0]["errors"], again[0]["errors"]) and torch.equal(first[1]["xtx"], again[1]["xtx"])
    study.layer_gram(model, ids, 1, "attention", token_weights=False)


def test_what_is_not_there_is_named(tiny_llama, ids):
    model = tiny_llama()
    with pytest.raises(InputError, match="layer from 0 to 2, got 3"):
        study.layer_gram(model, ids, 3)
    with pytest.raises(InputError, match="'mlp' or 'attention', got 'mpl'"):
        study.layer_tokens(model, ids, 0, "mpl")
    with pytest.raises(InputError, match="at least 1 neuron a round, got 0"):
        study.error_curves(model, ids, block_rounds=0)
