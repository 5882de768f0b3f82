"""Statistics of single layers against brute force on the tokens themselves."""

from __future__ import annotations

import pytest
import torch

from comp_lib.errors import InputError
from comp_lib.evaluation.loss import perplexity
from comp_lib.families.find import parts
from comp_lib.statistics.solve import least_squares
from comp_lib.surgery import shallow_copy, shrink
from course import dense_stream as study
from course import metrics_on_trial as trial

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
    module = study.layer_of(model, layer)
    linear = parts(module)[which].linear
    assert module is model.model.layers[layer] and parts(module)[which].block == (1 if which == "mlp" else 16)
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
    assert torch.equal(dense.xtx, xtx) and dense.upstream().shape == (dense.blocks,)


def test_statistics_are_computed_once(tiny_llama, ids, monkeypatch):
    model = tiny_llama()
    first = study.dense_problem(model, ids, 1)
    monkeypatch.setattr(study, "walk_to", None)  # nobody walks again
    assert torch.equal(first.xtx, study.dense_problem(model, ids, 1).xtx)
    study.dense_problem(model, ids, 1, "attention", weighted=False)


def test_what_is_not_there_is_named(tiny_llama, ids):
    model = tiny_llama()
    with pytest.raises(InputError, match="layer from 0 to 2, got 3"):
        study.dense_problem(model, ids, 3)


# metrics on trial


@pytest.fixture(scope="session")
def other(ids):
    return torch.randint(512, (3, 24), generator=torch.Generator().manual_seed(9))


def test_losses_are_those_of_the_pruned_models(tiny_llama, ids, other):
    model, kept = tiny_llama(), {1: torch.arange(36), 2: torch.arange(8, 48)}
    choices = {"fitted": kept, "bare": kept, "one": {2: kept[2]}}
    found = trial.losses_without(model, ids, other, choices, as_they_are=("bare",))
    assert set(found) == {*choices, "dense"}
    pruned = {name: shallow_copy(model) for name in choices}
    for name, choice in choices.items():
        for layer, stay in choice.items():
            dense = study.dense_problem(model, ids, layer)
            fitted = least_squares(dense.xtx, dense.xtx @ dense.weight, dense.weight, stay, 0.1)
            shrink(pruned[name].model.layers[layer], "mlp", stay, None if name == "bare" else fitted)
    for name, one in {**pruned, "dense": model}.items():
        wanted = torch.tensor(perplexity(one, other).losses)
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)
    assert len({float(losses.mean()) for losses in found.values()}) == 4
