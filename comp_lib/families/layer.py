"""A decoder layer: what it is made of, as its modules say it, and its two steps, each of them its own forward.

A layer is a gated MLP beside something that mixes the tokens. A step is the layer's forward while the other part adds
nothing; the way to the stream behind each dense layer is found by putting numbers in:

    y -> c y        added as it is, or times a number (Granite), or a number for each place of the stream
    y -> g y / |y|  through a norm (Gemma 2 and 3, OLMo 2 and 3, ...), |y| the root of the mean square over the stream

That a layer is no more than that is not believed but checked, once for each kind of layer and text.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import InputError, refusing
from .frame import Arguments, Rope, with_parts
from .protocol import Layer, Which

GATED = ({"gate_proj", "up_proj", "down_proj"}, {"gate_up_proj", "down_proj"})
GROUPED = ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"qkv_proj", "o_proj"})
OUTPUTS = ("o_proj", "out_proj", "dense")  # what the output of a token mixer is called
SILENT: dict[str, Tensor | float] = {"attention": 0.0, "mlp": 0.0}
WEAK = (
    0.05  # of the mean: an output that is multiplied by less adds too little to say what it should have been
)
TOLERANCE = 1e-4  # of a recomputed output in float32; of a narrower type what it can tell apart
LARGE = 1024.0  # beside which the epsilon of a norm is nothing, and by which numbers divide without rounding


@dataclass(frozen=True)
class Part:
    """One of the two parts of a layer, with the linear in it that writes to the stream."""

    name: str  # in the layer
    module: Any
    dense: str  # name of the linear that writes to the stream
    linear: nn.Linear  # which is this
    rows: dict[str, Tensor]
    """All other linears, which produce the inputs of the dense one: name -> rows (blocks, rows each).

    A block is what can only go as a whole: a neuron, a KV group with its query heads, or all of another mixer.
    """
    block: int = 1  # inputs of the dense layer in a block
    grouped: bool = False  # whether an attention is queries, keys, values and outputs whose rows are heads
    separable: bool = (
        True  # whether blocks can go one by one: not where a norm spans all heads, or in other mixers
    )


def parts(layer: Layer) -> dict[Which, Part]:
    """The two parts of a layer. Raises InputError, with the name of what does not fit, where it has others."""
    if any("expert" in f"{name} {type(part).__name__}".lower() for name, part in layer.named_modules()):
        refuse(layer, "experts, of which each token sees a few")
    if any(
        hasattr(part, "lambda_init") for part in layer.modules()
    ):  # a file would make it anew from another place
        refuse(layer, "a number that follows from its place in the model")
    gated, mixing = list[tuple[str, Any, set[str]]](), list[tuple[str, Any, set[str]]]()
    for name, module in layer.named_children():
        linears = {inner for inner, child in module.named_children() if isinstance(child, nn.Linear)}
        if linears in GATED:
            gated.append((name, module, linears))
        elif any(type(child) is nn.Linear for child in module.modules()):
            mixing.append((name, module, linears))
    if len(gated) != 1:
        refuse(layer, f"{len(gated) or 'no'} MLP of gate_proj, up_proj (or gate_up_proj) and down_proj")
    outputs = [output for *_, linears in mixing for output in OUTPUTS if output in linears]
    if len(mixing) != 1 or not outputs:
        refuse(
            layer,
            f"{' and '.join(name for name, *_ in mixing) or 'nothing'} instead of one part with an o_proj",
        )
    name, mlp, linears = gated[0]
    if any(weight.partition(".")[0] not in linears for weight, _ in mlp.named_parameters()):
        refuse(layer, "a norm or other weights between the neurons and down_proj")
    inputs = torch.arange(mlp.down_proj.in_features)
    if "up_proj" in linears:
        rows = {"gate_proj": inputs[:, None], "up_proj": inputs[:, None]}
    else:
        rows = {"gate_up_proj": torch.stack([inputs, inputs + len(inputs)], 1)}
    neurons = Part(name, mlp, "down_proj", mlp.down_proj, rows)
    return {"attention": _mixer(*mixing[0], outputs[0]), "mlp": neurons}


def _mixer(name: str, module: Any, linears: set[str], dense: str) -> Part:
    """What mixes the tokens. Its blocks are KV groups where it is plain attention with norms; else it is one."""
    beside: Counter[str] = Counter()  # what has weights beside the linears -> how many
    for weight, value in module.named_parameters():
        if (owner := weight.partition(".")[0]) not in linears:
            beside[owner] += value.numel()
    before = {one: getattr(module, one).out_features for one in sorted(linears - {dense})}
    linear, head, total = getattr(module, dense), getattr(module, "head_dim", 0), sum(before.values())
    queries = linear.in_features
    keys = before.get("k_proj", (total - queries) // 2)  # rows of all keys
    plain = linears in GROUPED and head and all(one.endswith("norm") for one in beside)
    if not plain or total != queries + 2 * keys or keys < 1 or keys % head or queries % keys:
        rows = {one: torch.arange(count)[None] for one, count in before.items()}
        return Part(name, module, dense, linear, rows, queries, separable=False)
    each = [torch.arange(count).reshape(keys // head, -1) for count in (queries, keys)]  # by KV group
    if "qkv_proj" in before:
        rows = {"qkv_proj": torch.cat([each[0], each[1] + queries, each[1] + queries + keys], 1)}
    else:
        rows = {"q_proj": each[0], "k_proj": each[1], "v_proj": each[1]}
    separable = max(beside.values(), default=0) <= head
    return Part(name, module, dense, linear, rows, each[0].shape[1], True, separable)


def shrunk(layer: Layer) -> None:
    """After surgery: make the layer's modules remember their new widths.

    Phi-3 finds its queries by the number of heads in its config, which all layers share until then.
    """
    part, mlp = parts(layer)["attention"], parts(layer)["mlp"]
    if hasattr(mlp.module, "intermediate_size"):
        mlp.module.intermediate_size = mlp.linear.in_features
    if part.grouped:
        attention, inputs = part.module, part.linear.in_features
        heads = inputs // attention.head_dim
        for name, count in (("num_heads", heads), ("num_key_value_heads", inputs // part.block)):
            if hasattr(attention, name):
                setattr(attention, name, count)
        if "qkv_proj" in part.rows and heads != attention.config.num_attention_heads:
            attention.config = copy.copy(attention.config)
            attention.config.num_attention_heads = heads


def refuse(layer: Layer, got: str) -> NoReturn:
    """Raise InputError: `got` is what the layer has instead of what the method needs."""
    wanted = "a decoder layer that adds attention, then a gated MLP to the stream"
    raise InputError(f"expected {wanted}, got {type(layer).__name__} with {got}: choose another model")


def run(
    layer: Layer, hidden: Tensor, arguments: Arguments | None, **outputs: Tensor | float
) -> tuple[Tensor, list[Tensor]]:
    """The layer's own forward, where `attention` or `mlp` puts out a given value for each token.

    Returns the states behind the layer (B, L, d), and what the dense layers of the parts that ran got (B, L, n). Where
    attention is given the layer needs no arguments.
    """
    own: dict[Any, Part] = parts(layer)
    inputs, others = list[Tensor](), {}
    for which, value in outputs.items():
        part = own[which]
        others[part.name] = with_parts(part.module)
        others[part.name].forward = partial(_answer, part.name, value)
    needed = [
        value
        for value in inspect.signature(layer.forward).parameters.values()
        if value.default is value.empty
    ]
    nothing = {value.name: None for value in needed[1:] if value.kind is value.POSITIONAL_OR_KEYWORD}
    args, kwargs = arguments or ((), nothing)
    with ExitStack() as hooks:
        for part in own.values():
            hooks.enter_context(
                part.linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
            )
        out = with_parts(layer, **others).forward(hidden, *args, **kwargs)
    return out[0] if isinstance(out, tuple) else out, inputs


def _answer(name: str, value: Tensor | float, *args: Any, **kwargs: Any) -> Any:
    """What the part of that name returns where it puts out `value` for each token."""
    states = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
    out = torch.zeros_like(states) + value
    return (out, None) if name == "self_attn" else out  # others return no weights of attention


def attention_step(layer: Layer, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """First residual step: h (B, L, d) -> r (B, L, d), and X_o, the inputs of the dense layer (B, L, n).

    Raises InputError for a layer that is not two steps, which the first text through each kind of layer shows.
    """
    numbers: Iterator[Any] = (part.layer_idx for part in layer.modules() if hasattr(part, "layer_idx"))
    arguments = rope.arguments[next(numbers)]
    kind = (type(layer), *map(type, layer.children()))
    if kind not in rope.checked:
        check(layer, hidden[:1], arguments)
        rope.checked.add(kind)
    out, (x,) = run(layer, hidden, arguments, mlp=0.0)
    return out, x


def mlp_step(layer: Layer, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Second residual step: r (B, L, d) -> h' (B, L, d), and X (B, L, n)."""
    out, (x,) = run(layer, residual, None, attention=0.0)
    return out, x


def answered(layer: Layer, which: Which, stream: Tensor, x: Tensor) -> Tensor:
    """The stream (B, L, d) behind a step whose dense layer gets x (B, L, n), while the other part adds nothing."""
    return run(layer, stream, None, **SILENT | {which: parts(layer)[which].linear(x)})[0]


@torch.no_grad()
def reach(layer: Layer, which: Which) -> tuple[Tensor, bool]:
    """What the outputs of a dense layer are multiplied by on their way to the stream (d,), and whether a norm is there.

    Raises InputError for another way than those two.
    """
    weight = parts(layer)[which].linear.weight
    ones = torch.ones_like(weight[:, 0])
    signs = torch.where(torch.arange(len(ones), device=ones.device) % 2 == 0, ones, -ones)
    outputs = SILENT | {which: torch.stack([LARGE * ones, 2 * LARGE * ones, signs])}
    once, twice, signed = run(layer, weight.new_zeros(1, 3, len(weight)), None, **outputs)[0][0]
    normed = close(twice, once)
    scale = once if normed else once / LARGE
    if not (normed or close(twice, 2 * once)) or not close(signed, scale * signs) or not once.any():
        refuse(layer, f"another way from its {which} to the stream than a number or an RMS norm")
    return scale, normed


def dense_target(layer: Layer, which: Which, change: Tensor, x: Tensor) -> Tensor:
    """What the dense layer should put out, its bias aside, so that the step adds `change` (..., d) to the stream.

    x (..., n): its inputs. A norm y -> g y / |y| forgets how large y is. So of a change r that is to be added only
    the direction r / g can be met, and any y along it does so. The target is as large as the layer's own output:
    y* = |y| r / g. Where nothing is missing, r = g y / |y|, and y* is y. (Our derivation.)
    """
    dense = parts(layer)[which].linear
    scale, normed = reach(layer, which)
    if normed:
        own: Tensor = dense(x)
        size = own.float().square().mean(-1, keepdim=True).sqrt().to(own)
        weak = scale.abs() < WEAK * scale.abs().mean()
        wanted = torch.where(weak, own, change * size / torch.where(weak, torch.ones_like(scale), scale))
    else:
        wanted = change / scale
    return wanted if dense.bias is None else wanted - dense.bias


def gain_behind(layer: Layer, which: Which) -> Tensor | None:
    """What the outputs of the dense layer are multiplied by on their way to the stream, (d,), rms 1.

    None: all by the same. Behind a norm an error e of the output adds g e / |y| to the stream, to first order and
    but for what lies along y. In the first layer of Gemma 3 270M g goes from 0.2 to 150. So who goes, and how hard
    the others are held, is judged on outputs times g; the refit of each output by itself stays what it is. (Our
    derivation, tested against brute force.)
    """
    scale, normed = reach(layer, which)
    gain = scale.float().abs()
    return gain / gain.square().mean().sqrt() if normed or bool((gain != gain[0]).any()) else None


def close(some: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same within TOLERANCE, relative to the second."""
    tolerance = max(TOLERANCE, 4 * torch.finfo(some.dtype).eps)
    return bool((some - other).norm() <= tolerance * other.norm())


@torch.no_grad()
def check(layer: Layer, hidden: Tensor, arguments: Arguments) -> None:
    """Raises InputError unless the layer is its two steps, and each as we take it to be, on states (1, L, d).

    The steps are composed and held against the layer's own output; what each adds is what its dense layer says, in a
    way that `reach` knows; and where all that produces some blocks of its inputs is silent, just those are zero.
    """
    steps = {
        "attention": partial(run, layer, arguments=arguments, mlp=0.0),
        "mlp": partial(run, layer, arguments=None, attention=0.0),
    }
    with refusing("a layer that can be run by itself", type(layer).__name__, "choose another model"):
        whole, stream = run(layer, hidden, arguments)[0], hidden
        for which, part in parts(layer).items():
            before, (stream, (x, *_)) = stream, steps[which](stream)
            reach(layer, which)
            if not close(answered(layer, which, before, x), stream):
                refuse(layer, f"a {part.name} whose {part.dense} is not what the stream gets")
            with ExitStack() as hooks:
                for name, rows in part.rows.items():
                    odd = rows[1::2].flatten().to(hidden.device)
                    hook = partial(lambda odd, module, args, y: y.index_fill(-1, odd, 0.0), odd)
                    hooks.enter_context(getattr(part.module, name).register_forward_hook(hook))
                _, (without, *_) = steps[which](before)
            silent = torch.arange(x.shape[-1], device=x.device) // part.block % 2 == 1
            if part.separable and not close(without, x.masked_fill(silent, 0.0)):
                refuse(
                    layer, f"a {part.name} where an input of {part.dense} is made by other rows than its own"
                )
        if not close(stream, whole):
            side_by_side = steps["attention"](hidden)[0] + steps["mlp"](hidden)[0] - hidden
            refuse(
                layer,
                "attention and MLP in parallel" if close(side_by_side, whole) else "more than these two",
            )
