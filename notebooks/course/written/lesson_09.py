"""Checks of what the reader writes in lesson 09: against a real layer, and an inverse by brute force."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from course.checking import Wrong, accept, alike, call, check_number, check_shape, checks, spot

from .made import ShapesMade

SHAPES = ((24, 40, 6, 2, 4), (20, 28, 4, 4, 3))  # width, neurons, query heads, KV heads, size of a head


@checks("layer_bytes")
def check_layer_bytes(layer_bytes: Callable[[int, int, int, int], int]) -> None:
    """The bytes of one decoder layer, as transformers builds it without numbers."""
    for width, neurons, heads, kv_heads, size in SHAPES:
        config = LlamaConfig(
            hidden_size=width,
            intermediate_size=neurons,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=size,
        )
        with torch.device("meta"):
            layer = LlamaDecoderLayer(config, 0)
        counts = [parameter.numel() for parameter in layer.parameters()]
        queries = heads * size
        keys = kv_heads * size
        answer = call(layer_bytes, width, neurons, queries, keys)
        check_number("the bytes", answer)
        if answer == 4 * sum(counts):
            continue
        mistakes = {
            sum(counts): "these are the numbers of the layer: each of them takes 4 bytes",
            2 * sum(counts): "a number in single precision takes 4 bytes, not 2",
            4 * (sum(counts) - 2 * width): "the two norms of the layer are missing",
            4 * (sum(counts) - width): "a layer has two norms, one before each step",
            4 * (sum(counts) - width * neurons): "the MLP has three matrices, not two",
            4 * (sum(counts) + 2 * width * (queries - keys)): "k_proj and v_proj have b rows each, not a",
            4 * (sum(counts) - width * keys): "k_proj or v_proj is missing",
            4 * (sum(counts) - width * queries): "q_proj or o_proj is missing",
        }
        if answer in mistakes:
            raise Wrong(mistakes[answer])
        raise Wrong(
            f"a layer with d = {width}, n = {neurons}, a = {queries} and b = {keys} takes "
            f"{4 * sum(counts):,} bytes, got {answer:,}: go through the nine tensors one by one"
        )
    accept("these are the bytes of the layers that transformers builds")


@checks("dual_diagonal")
def check_dual_diagonal(dual_diagonal: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The diagonal of an inverse of a matrix of neurons, without that matrix."""
    for tokens, neurons, ridge in ((6, 40, 0.2), (9, 50, 0.7)):
        generator = torch.Generator().manual_seed(neurons)
        x = torch.randn(tokens, neurons, generator=generator, dtype=torch.float64)
        x = x * torch.linspace(0.5, 2.0, neurons).double()
        penalty = ridge * x.square().sum(0)
        with ShapesMade() as shapes_made:
            answer = call(dual_diagonal, x.clone(), penalty.clone())
        xtx = x.T @ x
        inverse = torch.linalg.inv(xtx + torch.diag(penalty))
        if isinstance(answer, Tensor) and alike(answer, inverse):
            raise Wrong(f"this is the whole of P, {neurons} x {neurons}: only its diagonal is asked for")
        check_shape("the diagonal of P", answer, (neurons,))
        _spot_mistakes(answer, x, penalty)
        if not alike(answer, inverse.diagonal()):
            raise Wrong(
                f"the first number on the diagonal of P is {float(inverse[0, 0]):.4g}, "
                f"got {float(answer[0]):.4g}"
            )
        large = [shape for shape in shapes_made.shapes if torch.Size(shape).numel() >= neurons**2]
        if large:
            raise Wrong(
                f"right, but on the way there is a tensor {large[0]}: no more than T x T and T x n is needed"
            )
    accept("this is the diagonal of P, and nothing on the way was n x n")


def _spot_mistakes(answer: Tensor, x: Tensor, penalty: Tensor) -> None:
    """Raises Wrong for the mistakes in the formula that are common."""
    scaled = x / penalty
    eye = torch.eye(len(x), dtype=x.dtype)
    solved = torch.linalg.solve(eye + scaled @ x.T, scaled)
    removed = (scaled * solved).sum(0)
    spot(answer, 1 / penalty + removed, "the sign is the other one: the data make P smaller than 1 / D")
    spot(answer, removed, "1 / D is missing: this is only what the data take away from it")
    spot(answer, 1 / penalty, "this is 1 / D alone, the inverse without any data")
    spot(
        answer,
        1 / (x.square().sum(0) + penalty),
        "the diagonal of an inverse is not one over the diagonal: the other neurons count, too",
    )
    without_eye = torch.linalg.solve(scaled @ x.T, scaled)
    spot(answer, 1 / penalty - (scaled * without_eye).sum(0), "I is missing: I + U is inverted, not U")
    plain = torch.linalg.solve(eye + x @ x.T, scaled)
    spot(answer, 1 / penalty - (scaled * plain).sum(0), "U has D^-1 between X and its transpose")
    one_scaled = torch.linalg.solve(eye + scaled @ x.T, x)
    spot(answer, 1 / penalty - (scaled * one_scaled).sum(0), "D^-1 stands on both sides: once it is missing")
    spot(
        answer,
        1 / penalty - (x * one_scaled).sum(0),
        "D^-1 stands on both sides: take the columns of Z, not of X",
    )
