"""Masks over a whole model, and errors of fits, against ordinary forward passes and the tokens themselves."""

from __future__ import annotations

import pytest
import torch

from comp_lib.evaluation.loss import perplexity
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.plan import PlanRequest
from comp_lib.prune import prune
from comp_lib.recovery.mask_tuning import Mask, fold_mask, solve_mask, tune_mask
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.statistics.gram import contributions
from course import mask_tuning as study

pytestmark = pytest.mark.usefixtures("own_cache")

WIDTH = 36


def seen(model, ids):
    """What each down_proj reads (T, n), and the norm of the stream behind its layer (T,), in an ordinary pass."""
    inputs, norms, hooks = [], [], []
    for layer in model.model.layers:
        hooks.append(
            layer.mlp.down_proj.register_forward_pre_hook(lambda m, args: inputs.append(args[0].flatten(0, 1)))
        )
        hooks.append(layer.register_forward_hook(lambda m, args, out: norms.append(out.flatten(0, 1).norm(dim=-1))))
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return inputs, norms


def weight_of(model, layer):
    return model.model.layers[layer].mlp.down_proj.weight.detach().T.double()


def close(got, want, **tolerance):
    torch.testing.assert_close(got, want, **({"rtol": 1e-3, "atol": 1e-4} | tolerance))


def test_the_draw_is_the_one_of_prune(tiny_llama, ids):
    model = tiny_llama()
    settings = Settings(ratio=0.2, method="random", recovery="none", multiple=4, seed=3)
    plan = prune(model, ids, settings).plan
    kept = study.random_kept(model, plan.neurons[0], seed=3)
    assert tuple(map(tuple, kept.tolist())) == plan.kept_neurons


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("toward", [0.0, 1.0, -0.5])
def test_each_penalty_is_rows_below_the_contributions(even, toward):
    x, w = (torch.randn(*size, generator=torch.Generator().manual_seed(0)).double() for size in ((30, 7), (7, 3)))
    kept, ridge = torch.tensor([0, 2, 3, 6]), 0.3
    a = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(7)], dim=1)
    energy = a.square().sum(0)
    root = (ridge * (energy.mean().expand(4) if even else energy[kept])).sqrt()
    rows = torch.cat([a[:, kept], torch.diag(root)])
    want = torch.linalg.lstsq(rows, torch.cat([a.sum(1), toward * root])[:, None]).solution[:, 0]
    gram = a.T @ a
    close(study.penalised_mask(gram, kept, ridge, toward, even), want, rtol=1e-8, atol=1e-10)
    if not even and toward == 1.0:
        close(study.penalised_mask(gram, kept, ridge), solve_mask(gram, kept, ridge), rtol=1e-10, atol=1e-12)


def test_the_guard_on_the_size_lets_a_mask_pass_as_it_is_or_not_at_all():
    x, w = (torch.randn(*size, generator=torch.Generator().manual_seed(0)).double() for size in ((9, 7), (7, 3)))
    gram, kept = contributions(x.T @ x, w), torch.tensor([0, 2, 5])
    mask = solve_mask(gram, kept, 1e-9)
    size = float(mask.abs().max())
    assert torch.equal(study.bounded_mask(gram, kept, 1e-9, 1.01 * size), mask)
    assert torch.equal(study.bounded_mask(gram, kept, 1e-9, 0.99 * size), torch.ones_like(mask))


def test_masks_of_all_layers_are_tuned_on_the_dense_stream(tiny_llama, ids):
    model = tiny_llama()
    draws = {str(seed): study.random_kept(model, WIDTH, seed) for seed in (0, 1)}
    plain, even, guarded = study.Way(), study.Way(0.1, toward=0.0, even=True), study.Way(1e-4, guard="variance")
    weighted, small = study.Way(weighted=True), study.Way(1e-5, guard="size", weighted=True)
    ways = {
        "0": {"plain": plain, "even": even, "guarded": guarded},
        "1": {"guarded": guarded, "weighted": weighted, "small": small},
    }
    found = study.masks_of_all_layers(model, ids, draws, ways)
    assert {draw: list(each) for draw, each in found.items()} == {draw: ["kept", *each] for draw, each in ways.items()}
    assert all(torch.equal(found[draw]["kept"], kept) for draw, kept in draws.items())
    inputs, norms = seen(model, ids)
    for layer, (x, norm) in enumerate(zip(inputs, norms, strict=True)):
        w = weight_of(model, layer)
        grams = {
            name: contributions((each.T @ each).double(), w)
            for name, each in (("plain", x.double()), ("weighted", (x / norm[:, None]).double()))
        }
        for draw, kept in draws.items():
            close(found[draw]["guarded"][layer], tune_mask(grams["plain"], kept[layer], 1e-4).values)
        zero, one = draws["0"][layer], draws["1"][layer]
        close(found["0"]["plain"][layer], solve_mask(grams["plain"], zero, 1e-2))
        close(found["0"]["even"][layer], study.penalised_mask(grams["plain"], zero, 0.1, 0.0, True))
        close(found["1"]["weighted"][layer], solve_mask(grams["weighted"], one, 1e-2))
        bounded = study.bounded_mask(grams["weighted"], one, 1e-5)
        close(found["1"]["small"][layer], bounded, rtol=1e-2, atol=1e-2)
    again = study.masks_of_all_layers(model, ids, draws, ways)
    assert torch.equal(again["1"]["weighted"], found["1"]["weighted"])


def test_folded_masks_give_what_hooks_give_in_a_smaller_model(tiny_llama, ids):
    model = tiny_llama()
    kept = study.random_kept(model, WIDTH, 0)
    masks = 1.0 + 0.5 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(2)).double()
    before = model(input_ids=ids).logits
    small = study.with_masks(model, kept, masks)
    hooks = []
    for layer, stay, mask in zip(model.model.layers, kept, masks, strict=True):
        full = torch.zeros(48).index_put((stay,), mask.float())
        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, full=full: (args[0] * full,)))
    hooked = model(input_ids=ids).logits
    for hook in hooks:
        hook.remove()
    close(small(input_ids=ids).logits, hooked, rtol=1e-4, atol=1e-4)
    assert (hooked - before).abs().max() > 0.1
    assert torch.equal(model(input_ids=ids).logits, before), "the model is as it was"
    assert Shape.of(small).neurons == (WIDTH,) * 3 and Shape.of(model).neurons == (48,) * 3
    assert small.config.intermediate_size == WIDTH


def test_losses_of_one_choice_are_those_of_prune_with_the_first_one_s_choice(tiny_llama, ids, monkeypatch):
    model, other = tiny_llama(), ids.flip(0)
    plan = uniform_plan(PlanRequest(Shape.of(model), 0.3, drop=[1], kv_groups=1, multiple=4))
    ways = {"self": Settings(), "dense": Settings(aim="dense", ridge=0.1)}
    found = study.losses_of_one_choice(model, ids, other, plan, ways)
    first = prune(model, ids, ways["self"], plan=plan)
    none = Settings(recovery="none")
    for name, settings in {"none": none, "self": ways["self"], "dense": ways["dense"]}.items():
        want = perplexity(prune(model, ids, settings, plan=first.plan).model, other).losses
        assert found[name].tolist() == pytest.approx(want, rel=1e-4), name
    assert list(found) == ["self", "dense", "none"] and len({float(one.mean()) for one in found.values()}) == 3
    monkeypatch.setattr(study, "prune", None)
    again = study.losses_of_one_choice(model, ids, other, plan, ways)
    assert torch.equal(again["dense"], found["dense"]), "from the cache"


def test_mask_error_and_ridge_path_are_what_the_tokens_say():
    x, w = (torch.randn(*size, generator=torch.Generator().manual_seed(4)).double() for size in ((40, 8), (8, 3)))
    other = torch.randn(30, 8, generator=torch.Generator().manual_seed(5)).double()
    kept = torch.tensor([0, 1, 4, 7])
    grams = {name: contributions(each.T @ each, w) for name, each in (("own", x), ("other", other))}

    def error(tokens, mask):
        new = fold_mask(w, kept, Mask(mask, 0.0))
        return float((tokens @ (w - new)).square().sum() / (tokens @ w).square().sum())

    ones = torch.ones(4).double()
    assert study.mask_error(grams["own"], kept) == pytest.approx(error(x, ones))
    for rule in ((1.0, False), (0.0, True)):
        path = study.ridge_path(grams["own"], grams, kept, [1e-3, 1.0], *rule)
        for place, ridge in enumerate((1e-3, 1.0)):
            mask = study.penalised_mask(grams["own"], kept, ridge, *rule)
            close(path["masks"][place], mask, rtol=1e-8, atol=1e-10)
            assert float(path["own"][place]) == pytest.approx(error(x, mask))
            assert float(path["other"][place]) == pytest.approx(error(other, mask))
