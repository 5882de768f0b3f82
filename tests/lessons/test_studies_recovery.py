"""The sums behind masks, and masks folded into a model, against ordinary forward passes."""

from __future__ import annotations

import torch

from comp_lib.shape import Shape
from comp_lib.statistics.gram import contributions
from course import mask_tuning as study

WIDTH = 36


def seen(model, ids):
    """What each down_proj reads (T, n), and the norm of the stream behind its layer (T,), in an ordinary pass."""
    inputs, norms, hooks = [], [], []
    for layer in model.model.layers:
        hooks.append(
            layer.mlp.down_proj.register_forward_pre_hook(
                lambda m, args: inputs.append(args[0].flatten(0, 1))
            )
        )
        hooks.append(
            layer.register_forward_hook(lambda m, args, out: norms.append(out.flatten(0, 1).norm(dim=-1)))
        )
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return inputs, norms


def weight_of(model, layer):
    return model.model.layers[layer].mlp.down_proj.weight.detach().T.double()


def close(got, want, **tolerance):
    torch.testing.assert_close(got, want, **({"rtol": 1e-3, "atol": 1e-4} | tolerance))


def test_the_sums_of_each_layer_are_those_of_an_ordinary_pass(tiny_llama, ids):
    model = tiny_llama()
    layers = list(study.sums_of_layers(model, ids))
    for layer, (x, norm) in enumerate(zip(*seen(model, ids), strict=True)):
        w = weight_of(model, layer)
        plain, alike = x.double(), (x / norm[:, None]).double()
        close(layers[layer].plain, contributions(plain.T @ plain, w))
        close(layers[layer].problem.xtx, alike.T @ alike)
    assert len(layers) == 3


def test_folded_masks_give_what_hooks_give_in_a_smaller_model(tiny_llama, ids):
    model = tiny_llama()
    generator = torch.Generator().manual_seed(0)
    kept = torch.stack([torch.randperm(48, generator=generator)[:WIDTH].sort().values for _ in range(3)])
    masks = 1.0 + 0.5 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(2)).double()
    before = model(input_ids=ids).logits
    small = study.with_masks(model, kept, masks)
    hooks = []
    for layer, stay, mask in zip(model.model.layers, kept, masks, strict=True):
        full = torch.zeros(48).index_put((stay,), mask.float())
        hooks.append(
            layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, full=full: (args[0] * full,))
        )
    hooked = model(input_ids=ids).logits
    for hook in hooks:
        hook.remove()
    close(small(input_ids=ids).logits, hooked, rtol=1e-4, atol=1e-4)
    assert (hooked - before).abs().max() > 0.1
    assert torch.equal(model(input_ids=ids).logits, before), "the model is as it was"
    assert Shape.of(small).neurons == (WIDTH,) * 3 and Shape.of(model).neurons == (48,) * 3
    assert small.config.intermediate_size == WIDTH
