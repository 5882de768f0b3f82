"""Masks over a whole model, and errors of fits, against ordinary forward passes and the tokens themselves."""

from __future__ import annotations

import pytest
import torch

from comp_lib.errors import InputError
from comp_lib.evaluation.loss import perplexity
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.lessons import cache
from comp_lib.lessons import mask_tuning as study
from comp_lib.plan import PlanRequest
from comp_lib.prune import prune
from comp_lib.recovery.mask_tuning import Mask, fold_mask, solve_mask, tune_mask
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.statistics.gram import contributions
from comp_lib.statistics.solve import least_squares

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


@pytest.mark.parametrize("width", [0, 49])
def test_a_width_that_cannot_be_is_refused(tiny_llama, width):
    with pytest.raises(InputError, match="from 1 to 48"):
        study.random_kept(tiny_llama(), width, 0)


def test_the_naive_mask_is_plain_ridge_regression_on_the_contributions():
    x, w = (torch.randn(*size, generator=torch.Generator().manual_seed(0)).double() for size in ((30, 7), (7, 3)))
    kept, ridge = torch.tensor([0, 2, 3, 6]), 0.3
    a = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(7)], dim=1)
    penalty = ridge * a.square().sum(0).mean()
    rows = torch.cat([a[:, kept], penalty.sqrt() * torch.eye(4).double()])
    want = torch.linalg.lstsq(rows, torch.cat([a.sum(1), torch.zeros(4).double()])[:, None]).solution[:, 0]
    close(study.naive_mask(a.T @ a, kept, ridge), want, rtol=1e-8, atol=1e-10)


def test_masks_of_all_layers_are_tuned_on_the_dense_stream(tiny_llama, ids):
    model = tiny_llama()
    draws = {str(seed): study.random_kept(model, WIDTH, seed) for seed in (0, 1)}
    naive, guarded, weighted = study.Way(1e-2, guarded=False), study.Way(max_variance=1e-3), study.Way(weighted=True)
    ways = {"0": {"naive": naive, "guarded": guarded}, "1": {"guarded": guarded, "weighted": weighted}}
    found = study.masks_of_all_layers(model, ids, draws, ways)
    assert {draw: list(each) for draw, each in found.items()} == {
        "0": ["naive", "guarded"],
        "1": ["guarded", "weighted"],
    }
    inputs, norms = seen(model, ids)
    for layer, (x, norm) in enumerate(zip(inputs, norms, strict=True)):
        w = weight_of(model, layer)
        plain, scaled = (
            contributions((each.T @ each).double(), w) for each in (x.double(), (x / norm[:, None]).double())
        )
        for draw, kept in draws.items():
            close(found[draw]["guarded"][layer], tune_mask(plain, kept[layer], 1e-2, 1e-3).values)
        close(found["0"]["naive"][layer], study.naive_mask(plain, draws["0"][layer], 1e-2))
        close(found["1"]["weighted"][layer], tune_mask(scaled, draws["1"][layer], 1e-2).values)
    assert all((each["guarded"].var(-1, unbiased=False) <= 1e-3).all() for each in found.values())
    again = study.masks_of_all_layers(model, ids, draws, ways)
    assert torch.equal(again["1"]["weighted"], found["1"]["weighted"]) and cache.cache_size()[0] == 1


def test_folded_masks_give_what_hooks_give_in_a_smaller_model(tiny_llama, ids):
    model = tiny_llama()
    kept = study.random_kept(model, WIDTH, 0)
    masks = 1.0 + 0.5 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(2)).double()
    before = model(input_ids=ids).logits
    small = study.with_masks(model, kept, masks)
    with study.mask_hooks(model, kept, masks):
        hooked = model(input_ids=ids).logits
    close(small(input_ids=ids).logits, hooked, rtol=1e-4, atol=1e-4)
    assert (hooked - before).abs().max() > 0.1
    assert torch.equal(model(input_ids=ids).logits, before), "the hooks are gone and the model is as it was"
    assert Shape.of(small).neurons == (WIDTH,) * 3 and Shape.of(model).neurons == (48,) * 3
    assert small.config.intermediate_size == WIDTH


def test_the_hooks_go_even_when_something_fails(tiny_llama):
    model = tiny_llama()
    kept = study.random_kept(model, WIDTH, 0)
    with pytest.raises(RuntimeError, match="inside"), study.mask_hooks(model, kept, torch.ones(kept.shape)):
        raise RuntimeError("inside")
    assert not any(layer.mlp.down_proj._forward_pre_hooks for layer in model.model.layers)


def test_recoveries_of_one_choice_are_those_of_prune_with_the_first_one_s_choice(tiny_llama, ids, monkeypatch):
    model, other = tiny_llama(), ids.flip(0)
    plan = uniform_plan(PlanRequest(Shape.of(model), 0.3, drop=[1], kv_groups=1, multiple=4))
    ways = {"self": Settings(), "dense": Settings(aim="dense", ridge=0.1)}
    found = study.recoveries_of_one_choice(model, ids, other, plan, ways)
    first = prune(model, ids, ways["self"], plan=plan)
    none = Settings(recovery="none")
    for name, settings in {"none": none, "self": ways["self"], "dense": ways["dense"]}.items():
        want = perplexity(prune(model, ids, settings, plan=first.plan).model, other).perplexity
        assert found[name] == pytest.approx(want, rel=1e-4), name
    assert list(found) == ["none", "self", "dense"] and len(set(found.values())) == 3
    monkeypatch.setattr(study, "prune", None)
    assert study.recoveries_of_one_choice(model, ids, other, plan, ways) == found, "from the cache"


def test_perplexity_with_masks_and_without_comes_from_the_cache_the_second_time(tiny_llama, ids):
    model = tiny_llama()
    kept = study.random_kept(model, WIDTH, 0)
    masks = torch.full(kept.shape, 1.3, dtype=torch.float64)
    values = [study.masked_perplexity(model, ids, kept, each) for each in (masks, None)]
    want = [perplexity(study.with_masks(model, kept, each), ids).perplexity for each in (masks, None)]
    assert values == pytest.approx(want) and values[0] != pytest.approx(values[1])
    assert cache.cache_size()[0] == 2
    assert study.masked_perplexity(model, ids, kept, masks) == values[0]
    assert cache.cache_size()[0] == 2


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
    for guarded, tune in ((True, solve_mask), (False, study.naive_mask)):
        path = study.ridge_path(grams["own"], grams, kept, [1e-3, 1.0], guarded)
        for place, ridge in enumerate((1e-3, 1.0)):
            mask = tune(grams["own"], kept, ridge)
            assert float(path["variance"][place]) == pytest.approx(float(mask.var(unbiased=False)))
            assert float(path["own"][place]) == pytest.approx(error(x, mask))
            assert float(path["other"][place]) == pytest.approx(error(other, mask))


def test_both_forms_of_the_penalty_are_rows_below_the_tokens():
    x, w = (torch.randn(*size, generator=torch.Generator().manual_seed(4)).double() for size in ((40, 8), (8, 3)))
    x, other = x * torch.arange(1.0, 9.0), torch.randn(30, 8, generator=torch.Generator().manual_seed(5)).double()
    kept, ridges = torch.tensor([0, 1, 4, 7]), (1e-2, 1.0)
    found = study.ridge_forms(x.T @ x, other.T @ other, w, kept, ridges)
    energy = x.square().sum(0)
    for form, pull in {"own energy": energy[kept], "even": energy.mean().expand(4)}.items():
        for place, ridge in enumerate(ridges):
            root = torch.diag((ridge * pull).sqrt())
            gap = w.clone()
            gap[kept] -= torch.linalg.lstsq(torch.cat([x[:, kept], root]), torch.cat([x @ w, root @ w[kept]])).solution
            error = (other @ gap).square().sum() / (other @ w).square().sum()
            assert float(found[form][place]) == pytest.approx(float(error), rel=1e-5)


def test_token_curve_is_what_fits_on_the_tokens_leave(tiny_llama, ids):
    model, layer, sizes, ridges = tiny_llama(), 1, (2, 4), (1e-2, 1.0)
    kept = study.random_kept(model, WIDTH, 0)[layer]
    curve = study.token_curve(model, ids[:4], ids[4:], layer, kept, sizes, ridges)
    inputs, norms = seen(model, ids)
    x = (inputs[layer] / norms[layer][:, None]).double().reshape(6, 24, -1)
    w = weight_of(model, layer)

    def error(tokens, new):
        return float((tokens @ (w - new)).square().sum() / (tokens @ w).square().sum())

    held = x[4:].flatten(0, 1)
    for i, size in enumerate(sizes):
        own = x[:size].flatten(0, 1)
        xtx = own.T @ own
        for j, ridge in enumerate(ridges):
            news = (
                fold_mask(w, kept, Mask(solve_mask(contributions(xtx, w), kept, ridge), ridge)),
                least_squares(xtx, xtx @ w, w, kept, ridge),
            )
            for place, new in enumerate(news):
                assert float(curve["fitted"][place, i, j]) == pytest.approx(error(own, new), rel=2e-2, abs=1e-4)
                assert float(curve["unseen"][place, i, j]) == pytest.approx(error(held, new), rel=2e-2, abs=1e-4)
    bare = fold_mask(w, kept, Mask(torch.ones(WIDTH).double(), 0.0))
    want = torch.tensor([error(x[:4].flatten(0, 1), bare), error(held, bare)], dtype=torch.float64)
    close(curve["nothing"], want)


@pytest.mark.parametrize("sequences", [[], [2, 1], [1, 1], [0, 2], [1, 9]])
def test_token_curve_wants_rising_sizes_that_exist(tiny_llama, ids, sequences):
    with pytest.raises(InputError, match="rising numbers of sequences up to 4"):
        study.token_curve(tiny_llama(), ids[:4], ids[4:], 0, torch.arange(4), sequences, [0.1])
