"""The sums behind masks, and masks folded into a model, against ordinary forward passes."""

from __future__ import annotations

import torch

from comp_lib.decoder.shape import Shape
from comp_lib.importance.statistics.sums import contributions
from course import mask_tuning as study

WIDTH = 36


def forward_pass(model, ids):
    """What each down_proj reads (T, n), and the norm of the stream after its layer (T,).

    Both come from an ordinary forward pass.
    """
    inputs = []
    norms = []

    def keep_input(module, args):
        inputs.append(args[0].flatten(0, 1))

    def keep_norm(module, args, output):
        norms.append(output.flatten(0, 1).norm(dim=-1))

    hooks = []
    for layer in model.model.layers:
        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(keep_input))
        hooks.append(layer.register_forward_hook(keep_norm))
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return inputs, norms


def weight_of(model, layer):
    return model.model.layers[layer].mlp.down_proj.weight.detach().T.double()


def test_the_sums_of_each_layer_are_those_of_an_ordinary_pass(tiny_llama, ids):
    model = tiny_llama()
    sums = list(study.sums_of_layers(model, ids))
    assert len(sums) == 3
    inputs, norms = forward_pass(model, ids)
    for layer in range(3):
        x = inputs[layer].double()
        weighted = (inputs[layer] / norms[layer][:, None]).double()
        gram = contributions(x.T @ x, weight_of(model, layer))
        torch.testing.assert_close(sums[layer].plain, gram, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(sums[layer].problem.xtx, weighted.T @ weighted, rtol=1e-3, atol=1e-4)
        weighted_gram = contributions(weighted.T @ weighted, weight_of(model, layer))
        torch.testing.assert_close(sums[layer].weighted, weighted_gram, rtol=1e-3, atol=1e-4)


def test_a_mask_for_each_layer_of_each_draw(tiny_llama, ids):
    model = tiny_llama()
    draws = {str(seed): study.random_neurons(model, WIDTH, seed) for seed in (0, 1)}
    drawn_again = study.random_neurons(model, WIDTH, 0)
    assert torch.equal(draws["0"], drawn_again) and not torch.equal(draws["0"], draws["1"])
    for kept in draws.values():
        assert kept.shape == (3, WIDTH)
        assert all(len(set(layer.tolist())) == WIDTH and layer.tolist() == sorted(layer) for layer in kept)
    masks = study.tune(model, ids, draws, lambda sums, kept: sums.plain.diagonal()[kept])
    sums = list(study.sums_of_layers(model, ids))
    for name, kept in draws.items():
        for layer in range(3):
            expected = sums[layer].plain.diagonal()[kept[layer]]
            torch.testing.assert_close(masks[name][layer], expected)


def masked_logits(model, ids, kept, masks):
    """The model's logits with a hook in each layer: kept neurons times their mask, all others times 0."""
    hooks = []
    for layer, neurons, mask in zip(model.model.layers, kept, masks, strict=True):
        factors = torch.zeros(48).index_put((neurons,), mask.float())
        hook = layer.mlp.down_proj.register_forward_pre_hook(
            lambda module, args, factors=factors: (args[0] * factors,)
        )
        hooks.append(hook)
    logits = model(input_ids=ids).logits
    for hook in hooks:
        hook.remove()
    return logits


def test_folded_masks_give_what_hooks_give_in_a_smaller_model(tiny_llama, ids):
    model = tiny_llama()
    generator = torch.Generator().manual_seed(0)
    kept = torch.stack([torch.randperm(48, generator=generator)[:WIDTH].sort().values for _ in range(3)])
    masks = 1.0 + 0.5 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(2)).double()
    before = model(input_ids=ids).logits
    small = study.with_masks(model, kept, masks)
    masked = masked_logits(model, ids, kept, masks)
    torch.testing.assert_close(small(input_ids=ids).logits, masked, rtol=1e-4, atol=1e-4)
    assert (masked - before).abs().max() > 0.1
    assert torch.equal(model(input_ids=ids).logits, before), "the model is as it was"
    assert Shape.of(model).neurons == (48,) * 3
    assert Shape.of(small).neurons == (WIDTH,) * 3
    assert small.config.intermediate_size == WIDTH
