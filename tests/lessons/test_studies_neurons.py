"""Statistics of single layers against brute force on the tokens themselves."""

from __future__ import annotations

import pytest
import torch

from comp_lib.decoder.structure import parts
from comp_lib.decoder.surgery import shallow_copy, shrink
from comp_lib.evaluation.loss import measure_loss
from comp_lib.importance.statistics.solve import least_squares
from comp_lib.utils.errors import InputError
from course import dense_stream as study
from course import metrics_on_trial as trial

pytestmark = pytest.mark.usefixtures("own_cache")

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def forward_pass(model, ids, linear):
    """What `linear` reads in an ordinary forward pass (T, n), and the stream around the layers, (S, L, d)."""
    inputs = []
    hook = linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    with torch.no_grad():
        stream = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    hook.remove()
    return inputs[0].flatten(0, 1), stream


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("step", "block", "blocks"), [("mlp", 1, 48), ("attention", 16, 2)])
def test_statistics_of_a_layer_are_those_of_an_ordinary_forward_pass(
    tiny_llama, ids, layer, step, block, blocks
):
    model = tiny_llama()
    module = study.layer_of(model, layer)
    assert module is model.model.layers[layer]
    part = parts(module)[step]
    assert part.block_size == block
    x, stream = forward_pass(model, ids, part.output_linear)
    tokens = study.layer_tokens(model, ids, layer, step)
    torch.testing.assert_close(tokens["x"], x, **TOLERANCE)
    if step == "mlp":
        norms = stream[layer + 1].flatten(0, 1).norm(dim=-1)
        torch.testing.assert_close(tokens["norms"], norms, **TOLERANCE)

    weighted = study.dense_problem(model, ids, layer, step, weighted=True)
    rows = x / tokens["norms"][:, None]
    assert weighted.xtx.dtype == torch.float64
    torch.testing.assert_close(weighted.xtx.float(), rows.T @ rows, rtol=1e-3, atol=1e-4)

    problem = study.dense_problem(model, ids, layer, step, ridge=0.1, weighted=False)
    assert problem.xtx.dtype == torch.float64
    torch.testing.assert_close(problem.xtx.float(), x.T @ x, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(problem.weight.float().T, part.output_linear.weight)
    assert problem.block_count == blocks
    assert problem.ridge == 0.1
    assert problem.upstream_norms().shape == (blocks,)
    without_ridge = study.dense_problem(model, ids, layer, step, weighted=False)
    assert torch.equal(problem.xtx, without_ridge.xtx)


def test_statistics_are_computed_once(tiny_llama, ids, monkeypatch):
    model = tiny_llama()
    first = study.dense_problem(model, ids, 1)
    monkeypatch.setattr(study, "walk_to", None)  # a second walk would fail
    assert torch.equal(first.xtx, study.dense_problem(model, ids, 1).xtx)
    study.dense_problem(model, ids, 1, "attention", weighted=False)


def test_a_layer_that_is_not_there_is_named(tiny_llama, ids):
    model = tiny_llama()
    with pytest.raises(InputError, match="layer from 0 to 2, got 3"):
        study.dense_problem(model, ids, 3)


# --- metrics on trial ---------------------------------------------------------------------------------------


def prune_by_hand(model, ids, kept, refit):
    """A copy of the model with these neurons, layer -> kept, refitted or with the weights that they have."""
    pruned = shallow_copy(model)
    for layer, neurons in kept.items():
        problem = study.dense_problem(model, ids, layer)
        weight = None
        if refit:
            xty = problem.xtx @ problem.weight
            weight = least_squares(problem.xtx, xty, problem.weight, neurons, 0.1)
        shrink(pruned.model.layers[layer], "mlp", neurons, weight)
    return pruned


def test_losses_are_those_of_the_pruned_models(tiny_llama, ids):
    model = tiny_llama()
    windows = torch.randint(512, (3, 24), generator=torch.Generator().manual_seed(9))
    kept = {1: torch.arange(36), 2: torch.arange(8, 48)}
    choices = {"refitted": kept, "bare": kept, "one layer": {2: kept[2]}}
    losses = trial.losses_without(model, ids, windows, choices, as_they_are=("bare",))
    assert set(losses) == {*choices, "dense"}
    models = {"dense": model}
    for name, choice in choices.items():
        models[name] = prune_by_hand(model, ids, choice, refit=name != "bare")
    for name, pruned in models.items():
        expected = torch.tensor(measure_loss(pruned, windows).losses)
        torch.testing.assert_close(losses[name], expected, rtol=1e-4, atol=1e-5)
    assert len({float(values.mean()) for values in losses.values()}) == 4, "no two models are alike"
