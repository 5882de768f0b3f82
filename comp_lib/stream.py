"""Hidden states of a calibration set, carried through a decoder one layer at a time.

Pruning needs what flows *into* a layer, and nothing of the layers around it. So the hidden states of all calibration
sequences, h (S, L, d), are the only thing that lives through the whole run; a layer is copied to the compute device,
used, and let go. A pre-norm decoder layer is two residual steps, and the two dense layers that write to the residual
stream are the ones that COMP looks at:

    r  = h + o_proj(X_o),     X_o = attention(norm(h))               blocks of columns: KV groups
    h' = r + down_proj(X),    X   = act(gate(norm r)) * up(norm r)   columns: neurons

(Our reading of the paper's "layers loaded one at a time".)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all
BATCH_TOKENS = 2048  # in flight at once: large enough for the processor, small beside the hidden states


def no_progress(what: str, done: int, total: int) -> None:
    """The silent `Progress`."""


def batches(count: int, length: int) -> Iterator[slice]:
    """Slices over `count` sequences of `length` tokens, at most BATCH_TOKENS (but one sequence) each."""
    step = max(1, BATCH_TOKENS // length)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def embed(model: nn.Module, ids: Tensor) -> Tensor:
    """Hidden states before the first layer: ids (S, L) -> (S, L, d)."""
    return model.model.embed_tokens(ids.to(model.model.embed_tokens.weight.device))


def rotary(model: nn.Module, length: int, device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding for positions 0 to `length` - 1: two of (1, L, head_dim)."""
    module = model.model.rotary_emb
    positions = torch.arange(length, device=module.inv_freq.device)[None]
    cos, sin = module(torch.zeros(1, dtype=dtype, device=positions.device), positions)
    return cos.to(device), sin.to(device)


def to_device(layer: nn.Module, device: torch.device | str, own: bool = False) -> nn.Module:
    """A second `layer`, on `device`, to operate on: the original stays as it is.

    Where it is on that device already the two share their tensors, since surgery replaces tensors and never writes;
    with `own` they do not, so that the original's memory (perhaps a memory map of the whole layer) can be let go.
    """
    same = [layer.self_attn.config]  # shared by all layers: it must stay the same object
    if not own and next(layer.parameters()).device == torch.device(device):
        same += [*layer.parameters(), *layer.buffers()]
    return copy.deepcopy(layer, {id(thing): thing for thing in same}).to(device)


def attention_step(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """First residual step of a layer: hidden (B, L, d) -> r (B, L, d), and X_o (B, L, heads * head_dim)."""
    seen: list[Tensor] = []
    hook = layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        out = layer.self_attn(
            layer.input_layernorm(hidden), position_embeddings=rope, attention_mask=_mask(layer, hidden)
        )[0]
    finally:
        hook.remove()
    return hidden + out, seen[0]


def mlp_inputs(layer: nn.Module, residual: Tensor) -> Tensor:
    """What `down_proj` reads: r (B, L, d) -> X (B, L, n)."""
    mlp, x = layer.mlp, layer.post_attention_layernorm(residual)
    return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)


def mlp_step(layer: nn.Module, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Second residual step: r (B, L, d) -> h' (B, L, d), and X (B, L, n)."""
    x = mlp_inputs(layer, residual)
    return residual + layer.mlp.down_proj(x), x


def through(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], device: torch.device | str) -> Tensor:
    """All sequences through one layer on `device`: h (S, L, d) -> a new h' (S, L, d) where h is."""
    out = torch.empty_like(hidden)
    for rows in batches(*hidden.shape[:2]):
        out[rows] = mlp_step(layer, attention_step(layer, hidden[rows].to(device), rope)[0])[0]
    return out


def sequence_losses(model: nn.Module, hidden: Tensor, ids: Tensor) -> Tensor:
    """Mean next-token loss of each sequence, nats per token, from the last layer's output: (S, L, d) -> (S,).

    The vocabulary is wide, so logits exist for one sequence at a time.
    """
    losses = []
    for states, tokens in zip(hidden, ids, strict=True):
        logits = model.lm_head(model.model.norm(states[:-1].to(model.lm_head.weight.device)))  # (L - 1, vocab)
        losses.append(nn.functional.cross_entropy(logits.float(), tokens[1:].to(logits.device)))
    return torch.stack(losses)


def _mask(layer: nn.Module, hidden: Tensor) -> Tensor | None:
    """None where the attention kernel is causal by itself, else the additive causal mask (1, 1, L, L)."""
    attention, length = layer.self_attn, hidden.shape[1]
    # Qwen2 decides by layer and keeps the window on the module, Mistral has one in its config, Llama none
    window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None)) or length
    if attention.config._attn_implementation == "sdpa" and window >= length:
        return None
    mask = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=hidden.device)
    return (mask.triu(1) + mask.tril(-window))[None, None]
