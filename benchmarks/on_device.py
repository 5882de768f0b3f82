"""A family of plans on a device: what they cost in quality, and how fast llama.cpp decodes them.

    python benchmarks/on_device.py --quality        # a row for each plan, kept as it ends; minutes each
    python benchmarks/on_device.py --speed f16      # all plans in turns; or q8_0, q4_0, transformers

Both write to on_device.json, which notebook 08 shows. Quality: models are pruned on 16 x 256 tokens of
data/calibration.txt with a ridge of 0.1, and judged on 12 x 512 tokens of data/evaluation.txt. Speed: time
does not depend on what weights say, so models cut to the shape of each plan are timed. Nothing else should
run meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import models
import torch
from common import HERE, evaluation_windows, parser_of, read_json, write_json
from torch import Tensor, nn

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.export import export_gguf
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.surgery import keep_layers, shallow_copy, shrink, update_config
from comp_lib.evaluation.loss import measure_loss
from comp_lib.hybrid_granularity.plan import Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.reports.speed import gain, measure

FILE = HERE / "on_device.json"
PACKAGES = ("torch", "transformers", "xllamacpp")  # whose versions matter
MULTIPLE = 32  # what a block-quantised row is cut into
SELF = "neurons 20%, self-written text"  # no data at all; not timed, since it has the shape of "neurons 20%"
PLANS = {  # name -> (ratio of the decoder, layers dropped)
    "neurons 20%": (0.2, 0),
    "layers 20%": (0.2, 6),
    "neurons 40%": (0.4, 0),
    "layers 40%": (0.4, 12),
    "3 layers, neurons 20%": (0.2, 3),
    "6 layers, neurons 40%": (0.4, 6),
    "neurons 10%": (0.1, 0),
    "layers 10%": (0.1, 3),
}
SPEED = {"prompt": 64, "new_tokens": 32}


def quality(stored: dict, model: nn.Module, tokenizer) -> None:
    """Prunes by each plan that has no row yet."""
    windows = evaluation_windows(tokenizer)
    rows = stored.setdefault("quality", {})
    if "losses" not in rows.get("dense", {}):
        rows["dense"] = {"removed": 0.0} | judged(model, windows)
    for name, (ratio, layers) in ({SELF: PLANS["neurons 20%"]} | PLANS).items():
        if "losses" in rows.get(name, {}):
            continue
        ids = calibration_tokens(
            "self" if name == SELF else "calibration",
            tokenizer,
            model=model,
            judged_on="evaluation",
            sequences=16,
            length=256,
        )
        settings = Settings(
            ratio=ratio, drop_layers=layers, multiple=MULTIPLE, widths="uniform", aim="self", ridge=0.1
        )
        pruned = prune(model, ids, settings)
        rows[name] = {"removed": pruned.plan.removed} | judged(pruned.model, windows)
        write_json(FILE, stored)
        increase = rows[name]["loss"] - rows["dense"]["loss"]
        print(f"{name:24} {rows[name]['removed']:.1%} {increase:.3f} nats", flush=True)


def judged(model: nn.Module, windows: Tensor) -> dict:
    """The loss on windows (S, L), and on each of them, from which intervals come."""
    evaluation = measure_loss(model, windows)
    return {"loss": evaluation.loss, "losses": [round(loss, 6) for loss in evaluation.losses]}


def cut(model: nn.Module, plan: Plan) -> nn.Module:
    """A model of the plan's *shape* only, its first neurons kept: for timing, where no value matters."""
    smaller = shallow_copy(model)
    keep_layers(smaller, plan.layers)
    for layer, width in zip(smaller.model.layers, plan.neurons, strict=True):
        shrink(layer, "mlp", torch.arange(width))
    update_config(smaller)
    return smaller


def speed(stored: dict, model: nn.Module, tokenizer, kind: str) -> None:
    """Times all plans in turns; `kind` is a type for llama.cpp, or "transformers"."""
    shape = Shape.of(model)
    variants = {"dense": model}
    for name, (ratio, layers) in PLANS.items():
        request = PlanRequest(shape, ratio, drop=range(layers), multiple=MULTIPLE)
        variants[name] = cut(model, uniform_plan(request))
    with tempfile.TemporaryDirectory() as temporary:
        if kind != "transformers":
            for name, small in variants.items():
                folder = Path(temporary, name)
                small.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                variants[name] = export_gguf(folder, folder.with_suffix(".gguf"), kind)
        speeds = measure(variants, rounds=9, **SPEED)
    dense, *_ = speeds
    rows = [asdict(variant) | {"limit": gain(dense, variant).limit} for variant in speeds]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    facts = {"threads": torch.get_num_threads(), "machine": platform.machine(), "versions": versions}
    stored.setdefault("speed", {})[kind] = facts | SPEED | {"models": rows}
    write_json(FILE, stored)
    for variant in speeds:
        gains = gain(dense, variant)
        median, low, high = gains.speedup
        print(
            f"{kind:12} {variant.name:24} decode {median:.3f} ({low:.3f} to {high:.3f}) "
            f"limit {gains.limit:.3f}: {median / gains.limit:.1%} of the limit; "
            f"prefill {gains.prefill[0]:.3f}"
        )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--speed", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stored = read_json(FILE, {})
    model, tokenizer = models.load(arguments.model)
    for kind in arguments.speed:
        speed(stored, model, tokenizer, kind)
    if arguments.quality:
        quality(stored, model, tokenizer)


if __name__ == "__main__":
    sys.exit(main())
