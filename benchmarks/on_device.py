"""A family of plans on a device: what they cost in quality, and how fast llama.cpp decodes them.

    python benchmarks/on_device.py --quality        # a row for each plan, kept as it ends; minutes each
    python benchmarks/on_device.py --speed f16      # all plans in turns; or q8_0, q4_0, transformers

Both write to on_device.json, which notebook 08 shows. Quality: pruned on 16 x 256 tokens of data/calibration.txt with a
ridge of 0.1, judged on 12 x 512 tokens of data/evaluation.txt. Speed: time does not depend on what weights say, so
models cut to the shape of each plan are timed. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from torch import Tensor, nn

from comp_lib.calibration.text import load_text
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.loss import evaluation_tokens, perplexity
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.on_device.benchmark import Workload, benchmark, gain, prepare, to_json
from comp_lib.on_device.latency import cut
from comp_lib.plan import PlanRequest
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.system.atomic import write_atomically

FILE = Path(__file__).parent / "on_device.json"
MULTIPLE = 32  # what a block-quantised row is cut into
SELF = "neurons 20%, self-written text"  # no data at all; not timed, since it has the shape of "neurons 20%"
PLANS = {  # name -> (ratio of the decoder, whole layers dropped)
    "neurons 20%": (0.2, 0),
    "layers 20%": (0.2, 6),
    "neurons 40%": (0.4, 0),
    "layers 40%": (0.4, 12),
    "3 layers, neurons 20%": (0.2, 3),
    "6 layers, neurons 40%": (0.4, 6),
    "neurons 10%": (0.1, 0),
    "layers 10%": (0.1, 3),
}
SPEED = {"rounds": 9, "prompt": 64, "new_tokens": 32}


def quality(found: dict) -> None:
    """Prune by each plan that has no row yet."""
    model, tokenizer = load_model(EMBEDDED)
    windows = evaluation_tokens(tokenizer, load_text("evaluation"), length=512, sequences=12)
    rows = found.setdefault("quality", {})
    if "losses" not in rows.get("dense", {}):
        rows["dense"] = {"removed": 0.0} | judged(model, windows)
    for name, (ratio, layers) in ({SELF: PLANS["neurons 20%"]} | PLANS).items():
        if "losses" in rows.get(name, {}):
            continue
        ids = calibration_tokens(
            "self" if name == SELF else "calibration",
            tokenizer,
            model=model,
            sequences=16,
            length=256,
            evaluated="evaluation",
        )
        small = prune(model, ids, Settings(ratio=ratio, layers=layers, multiple=MULTIPLE, ridge=0.1))
        rows[name] = {"removed": small.plan.removed} | judged(small.model, windows)
        keep(found)
        increase = rows[name]["loss"] - rows["dense"]["loss"]
        print(f"{name:24} {rows[name]['removed']:.1%} {increase:.3f} nats", flush=True)


def judged(model: nn.Module, windows: Tensor) -> dict:
    """The loss on windows (S, L), and on each of them, from which intervals come."""
    found = perplexity(model, windows)
    return {"loss": found.loss, "losses": [round(loss, 6) for loss in found.losses]}


def speed(found: dict, kind: str, threads: int) -> None:
    """Time all plans in turns; `kind` is a type for llama.cpp, or "transformers"."""
    model, tokenizer = load_model(EMBEDDED)
    shape = Shape.of(model)
    plans = {"dense": None} | {
        name: uniform_plan(PlanRequest(shape, ratio, drop=range(layers), multiple=MULTIPLE))
        for name, (ratio, layers) in PLANS.items()
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, plan in plans.items():
            small = model if plan is None else cut(model, plan)
            small.save_pretrained(Path(temporary) / name)
            tokenizer.save_pretrained(Path(temporary) / name)
        del model, small
        runtime = kind if kind == "transformers" else "llama.cpp"
        work = Workload(SPEED["prompt"], SPEED["new_tokens"], threads)
        folders = [str(Path(temporary) / name) for name in plans]
        jobs = prepare(folders, runtime, kind, Path(temporary), work)
        measured = benchmark([(name, job) for name, (_, job) in zip(plans, jobs, strict=True)], SPEED["rounds"])
        found.setdefault("speed", {})[kind] = to_json(measured, jobs[0][1])
    keep(found)
    for each in measured:
        ratios = gain(measured[0], each)
        middle, low, high = ratios.speedup
        print(
            f"{kind:12} {each.name:24} decode {middle:.3f} ({low:.3f} to {high:.3f}) limit {ratios.limit:.3f}: "
            f"{middle / ratios.limit:.1%} of the limit, {ratios.share:.0%} of the gain; prefill "
            f"{ratios.prefill[0]:.3f}"
        )


def keep(found: dict) -> None:
    write_atomically(FILE, (json.dumps(found, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--speed", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    found = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    for kind in arguments.speed:
        speed(found, kind, arguments.threads)
    if arguments.quality:
        quality(found)


if __name__ == "__main__":
    sys.exit(main())
