"""Helpers of several test files: what a model computes and holds, plans by hand, matrices and curves."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace

import torch

from comp_lib.decoder.run import embed, layer_arguments
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.walk import send_through
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.importance.matrix_condition import Sweep
from comp_lib.pruning.settings import Settings

SETTINGS = Settings(ratio=0.25, multiple=4, widths="uniform", recovery="least-squares", aim="self")
"""Settings with which a tiny model can be pruned, the quickest ones."""


# A decoder of four narrow layers, and SmolLM2-135M's.
FOUR_LAYERS = Shape(
    hidden_size=32,
    head_dim=8,
    group_heads=2,
    neurons=(48,) * 4,
    kv_groups=(2,) * 4,
    neuron_parameters=96,
    group_parameters=1536,
    fixed_parameters=(64,) * 4,
    other_parameters=16_032,
)
SMOLLM2 = Shape(
    hidden_size=576,
    head_dim=64,
    group_heads=3,
    neurons=(1536,) * 30,
    kv_groups=(3,) * 30,
    neuron_parameters=3 * 576,
    group_parameters=8 * 64 * 576,
    fixed_parameters=(2 * 576,) * 30,
    other_parameters=49_152 * 576 + 576,
)


# What a model computes


@torch.inference_mode()
def logits(model, ids) -> torch.Tensor:
    return model(ids).logits


@torch.inference_mode()
def torch_losses(model, ids) -> torch.Tensor:
    """The loss of each token after the first of ids (S, L), by transformers: (S, L - 1)."""
    logs = torch.log_softmax(model(ids).logits[:, :-1].double(), -1)
    return -logs.gather(2, ids[:, 1:, None])[..., 0].float()


@torch.inference_mode()
def final_stream(model, ids) -> torch.Tensor:
    """Output of the last layer, before the norm (S, L, d)."""
    hidden = embed(model, ids)
    rope = layer_arguments(model, ids.shape[1], "cpu", hidden.dtype)
    for layer in model.model.layers:
        hidden = send_through(layer, hidden, rope, "cpu")
    return hidden


def stream_error(model, dense, ids) -> float:
    """Mean relative error of a token's final stream, as COMP weighs it."""
    expected = final_stream(dense, ids)
    gap = final_stream(model, ids) - expected
    return float((gap.norm(dim=-1) / expected.norm(dim=-1)).square().mean())


# What a model holds


def hash_of_weights(model) -> str:
    """SHA-256 of all weights by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def config_and_hash(model) -> tuple[str, str]:
    """The config as text, and the SHA-256 of all weights by name."""
    return repr(model.config.to_dict()), hash_of_weights(model)


def storages(model) -> set[int]:
    """Addresses in memory of all weights."""
    return {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}


def parameter_count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Plans


def plan_of_everything(model, **changes) -> Plan:
    """A plan that keeps everything, but for the fields in `changes`."""
    shape = Shape.of(model)
    layers = tuple(range(shape.layer_count))
    plan = Plan("", shape.layer_count, layers, shape.neurons, shape.kv_groups, ratio=0.0, removed=0.0)
    return replace(plan, **changes)


def silence(layer, neurons=(), groups=()):
    """Set to zero the columns of `down_proj` and `o_proj` that read these neurons and KV groups."""
    with torch.no_grad():
        layer.mlp.down_proj.weight[:, list(neurons)] = 0.0
        heads = layer.self_attn.num_key_value_groups * layer.self_attn.head_dim
        for group in groups:
            layer.self_attn.o_proj.weight[:, group * heads : (group + 1) * heads] = 0.0


def masked(parent, plan):
    """`parent` with zeros for neurons and KV groups that `plan` removes, and dropped layers skipped."""
    model = copy.deepcopy(parent)
    shape = Shape.of(parent)
    for index in plan.dropped:
        model.model.layers[index].forward = lambda hidden_states, *args, **kwargs: hidden_states
    for index, neurons, groups in zip(plan.layers, plan.kept_neurons, plan.kept_groups, strict=True):
        removed_neurons = set(range(shape.neurons[index])) - set(neurons)
        removed_groups = set(range(shape.kv_groups[index])) - set(groups)
        silence(model.model.layers[index], removed_neurons, removed_groups)
    return model


# Matrices and curves


def normal(seed: int, *size: int) -> torch.Tensor:
    """Normally distributed float64 numbers."""
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inputs_and_weights(seed: int, n: int, m: int = 5, spare: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated inputs X (n + spare, n) and weights W (n, m)."""
    mix = torch.eye(n, dtype=torch.float64) + 0.4 * normal(seed + 2, n, n)
    return normal(seed, n + spare, n) @ mix, normal(seed + 1, n, m)


def curve_of(errors):
    """A sweep that takes one neuron a round, in their order, until one is left; `errors` are the rounds'."""
    rounds = len(errors)
    neurons = rounds + 1
    return Sweep(
        kept=torch.tensor([rounds]),
        order=torch.arange(rounds),
        objectives=torch.tensor(errors, dtype=torch.float64),
        counts=torch.arange(1, rounds + 1),
        round_penalties=torch.zeros(rounds, dtype=torch.float64),
        scores=torch.zeros(neurons, dtype=torch.float64),
        weights=torch.zeros(neurons, 1, dtype=torch.float64),
    )


def without(n: int, *removed: int) -> list[int]:
    """The numbers from 0 to n - 1 but for those that are removed."""
    return [index for index in range(n) if index not in removed]
