"""Prune and quantise, or quantise only: which is better at the size of a file?

    python benchmarks/quantised.py [--model gemma3-270m]
    python benchmarks/quantised.py --figure docs/pareto.png

SmolLM2-135M ships as Q4_1, the others as Q4_K_M, and weights that lie on the grid of a type cost that type
nothing. So the parent of all rivals is a file of floats that computes the same and lies on no grid:
dequantised, and each channel that a matrix reads scaled by a factor between 1 and 1.1, which the norm or the
matrix before it undoes (`off_the_grid`). Each model, dense or pruned, is stored as several types and judged
with the weights that its file would hold. The two small ones are pruned on 16 x 256 tokens of
data/calibration.txt with a ridge of 0.1, Qwen2.5-Coder 0.5B on 128 x 256 of the mixture `general`, as `prune`
does, the 1.5B on 32 x 256 of `shipped` (19 GB of memory). 12 x 512 tokens of data/evaluation.txt judge,
window by window. Rows go to quantised.json, which notebook 08 shows, of another model than the included one
to a file of its own. A second call goes on. The ratio 0.471 is that at which a Q8_0 file of SmolLM2 is as
large as the dense model's Q4_0. The other call draws what is stored, at equal bytes.
"""

from __future__ import annotations

import copy
import sys
from math import prod
from pathlib import Path

import gguf
import models
import numpy as np
import torch
from common import evaluation_windows, parser_of, read_json, write_json
from readme import MODELS, stored_in
from torch import Tensor, nn

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.gguf.architectures import architecture_of
from comp_lib.checkpoints.gguf.write import tensor_type
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.evaluation.confidence import confidence_interval
from comp_lib.evaluation.loss import measure_loss
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.reports.plots.base import LOSS_LABEL, Picture, note, panels, png, style
from comp_lib.utils.files import write_atomically

TYPES = {0.0: ("q8_0", "q4_0", "q4_1"), 0.471: ("q8_0", "q4_0"), 0.2: ("q8_0", "q4_0")}  # by ratio
FLOATS = ("shipped", "f32")  # "types" of rows that are no quantised file
SMALLER = {"qwen-coder-1.5b": "qwen-coder-0.5b"}  # a parent with the same tokenizer
STRETCH = 0.1  # by which a channel is scaled
TEXT = {"qwen-coder-0.5b": ("general", 128), "qwen-coder-1.5b": ("shipped", 32)}  # calibrates the wider ones


@torch.no_grad()
def off_the_grid(model: nn.Module) -> nn.Module:
    """A model that computes the same, up to rounding; only its embedding still lies on a grid."""
    scaled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    shift = architecture_of(model).norm_shift  # 1 where a norm multiplies by 1 + w

    def factors(count: int) -> Tensor:
        return 1 + STRETCH * torch.rand(count, generator=generator)

    for layer in scaled.model.layers:
        attention = layer.self_attn
        mlp = layer.mlp
        before_mlp = getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm)
        readers = {
            layer.input_layernorm: (attention.q_proj, attention.k_proj, attention.v_proj),
            before_mlp: (mlp.gate_proj, mlp.up_proj),
        }
        for norm, linears in readers.items():
            scale = factors(len(norm.weight))
            norm.weight.add_(shift).div_(scale).sub_(shift)
            for linear in linears:
                linear.weight.mul_(scale)
        scale = factors(mlp.up_proj.out_features)
        mlp.up_proj.weight.mul_(scale[:, None])
        mlp.down_proj.weight.div_(scale)
        scale = factors(attention.v_proj.out_features)
        attention.v_proj.weight.mul_(scale[:, None])
        if attention.v_proj.bias is not None:
            attention.v_proj.bias.mul_(scale)
        heads = scale.view(-1, attention.head_dim).repeat_interleave(attention.num_key_value_groups, 0)
        attention.o_proj.weight.div_(heads.flatten())
    return scaled


def as_stored(model: nn.Module, kind: str) -> tuple[nn.Module, int]:
    """A copy with the weights that a GGUF file of this type would hold, and the bytes of its tensors."""
    rounded = copy.deepcopy(model)
    size = 0
    for name, parameter in rounded.named_parameters():
        type_in_file = tensor_type(name, tuple(parameter.shape), kind)
        block, block_bytes = gguf.GGML_QUANT_SIZES[type_in_file]
        size += prod(parameter.shape) // block * block_bytes
        quantised = gguf.quants.quantize(parameter.detach().numpy(), type_in_file)
        values = gguf.quants.dequantize(quantised, type_in_file)
        parameter.data = torch.from_numpy(values.reshape(parameter.shape)).float()
    return rounded, size


def bytes_in_float32(model: nn.Module) -> int:
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--figure", type=Path, help="nothing is measured: draw what is stored")
    arguments = parser.parse_args()
    if arguments.figure is not None:
        write_atomically(arguments.figure, png(figure()))
    else:
        measure(arguments.model)


def measure(name: str) -> None:
    """Judges all files of that model that have no row yet."""
    source, sequences = TEXT.get(name, ("calibration", 16))
    rows = read_json(stored_in(name))
    shipped, tokenizer = models.load(name)
    windows = evaluation_windows(tokenizer)
    ids = calibration_tokens(
        source, tokenizer, model=shipped, sequences=sequences, length=256, judged_on="evaluation"
    )

    def keep(ratio: float, kind: str, model: nn.Module, size: int) -> None:
        losses = [round(loss, 6) for loss in measure_loss(model, windows).losses]
        rows.append({"ratio": ratio, "type": kind, "bytes": size, "losses": losses})
        write_json(stored_in(name), rows)
        mean = sum(losses) / len(losses)
        print(f"{ratio:5.1%} {kind:5} {size / 1e6:6.1f} MB {mean:.4f} nats", flush=True)

    def missing(ratio: float, kind: str) -> bool:
        return all((row["ratio"], row["type"]) != (ratio, kind) for row in rows)

    if missing(0.0, "shipped"):
        keep(0.0, "shipped", shipped, bytes_in_float32(shipped))
    parent = off_the_grid(shipped)
    del shipped
    if missing(0.0, "f32"):
        keep(0.0, "f32", parent, bytes_in_float32(parent))
    for ratio in TYPES if name == INCLUDED_MODEL else (0.0, 0.2):
        kinds = [kind for kind in TYPES[ratio] if missing(ratio, kind)]
        if not kinds:
            continue
        ridge: float | str = "auto" if name in TEXT else 0.1
        settings = Settings.preset("stock", ratio=ratio, drop_layers=0, multiple=32, ridge=ridge, aim="self")
        model = prune(parent, ids, settings).model if ratio else parent
        for kind in kinds:
            keep(ratio, kind, *as_stored(model, kind))


def curves_of(name: str, stored: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The rows of each curve in the panel of a model, by its label; `stored` has the rows of each model."""
    curves = {}
    for ratio in sorted(TYPES):
        label = f"{ratio:.0%} pruned" if ratio else "quantised only"
        curves[label] = [row for row in stored[name] if row["ratio"] == ratio]
    if name in SMALLER:
        smaller = SMALLER[name]
        curves[f"{smaller}, quantised"] = [row for row in stored[smaller] if row["ratio"] == 0.0]
    files = {}
    for label, rows in curves.items():
        quantised = [row for row in rows if row["type"] not in FLOATS]
        files[label] = sorted(quantised, key=lambda row: row["bytes"])
    return files


def figure() -> Picture:
    """The loss over the file of floats against the size of the file: a panel for each stored model."""
    stored = {name: rows for name in MODELS if (rows := read_json(stored_in(name)))}
    picture, panes = panels(2, -(-len(stored) // 2), (8.4, 6.4), xlabel="MB of weights", ylabel=LOSS_LABEL)
    descriptions = []
    legend = {}
    for axes in panes[len(stored) :]:
        axes.set_axis_off()
    for (name, rows), axes in zip(stored.items(), panes, strict=False):
        (dense,) = (np.array(row["losses"]) for row in rows if row["type"] == "f32")
        for number, (label, files) in enumerate(curves_of(name, stored).items()):
            if not files:
                continue
            sizes = [row["bytes"] / 1e6 for row in files]
            gaps = [np.array(row["losses"]) - dense for row in files]
            means = [gap.mean() for gap in gaps]
            errors = np.abs(np.array([confidence_interval(gap) for gap in gaps]).T - means)
            legend[label] = axes.errorbar(sizes, means, errors, capsize=3, **style(number))
            for row, size, mean in zip(files, sizes, means, strict=True):
                below = row["type"] == "q4_1"
                note(axes, row["type"], (size, mean), (4, -12 if below else 4))
                descriptions.append(f"{name}, {label}, {row['type']} {size:.0f} MB: {mean:.2f}")
        axes.set_title(name, loc="left")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    picture.legend(legend.values(), legend, loc="outside upper right", ncols=len(legend), frameon=False)
    return picture.with_alt_text("Loss added against the size of the file. ", descriptions)


if __name__ == "__main__":
    sys.exit(main())
