"""Prune and quantise, or quantise only: which is better at the size of a file?

    python benchmarks/quantised.py

The parent is a quantised model itself: SmolLM2-135M as Q4_1. It is pruned on 16 x 256 tokens of data/calibration.txt
with a ridge of 0.1, and each model, dense or pruned, is stored as several types and judged, on 12 x 512 tokens of
data/evaluation.txt, with the weights that the file would hold. Rows go to quantised.json, which notebook 08 shows; a
second call goes on. Storing the parent as Q4_1 once more is free by construction, so Q4_0, a grid that it has not been
on, is the fair "quantise only". The ratios 0.412 and 0.471 are those at which a Q8_0 file is as large as the parent's
Q4_1 and Q4_0.
"""

from __future__ import annotations

import copy
import json
import sys
from math import prod
from pathlib import Path

import gguf
import torch
from torch import nn

from comp_lib.calibration.text import load_text
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.loss import evaluation_tokens, perplexity
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.on_device.gguf_export import tensor_type
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.system.atomic import write_atomically

FILE = Path(__file__).parent / "quantised.json"
TYPES = ("f16", "q8_0", "q4_1", "q4_0")
RATIOS = (0.0, 0.471, 0.2, 0.412, 0.1)


def as_stored(model: nn.Module, kind: str) -> tuple[nn.Module, int]:
    """A copy with the weights that a GGUF file of this type would hold, and the bytes of its tensors."""
    found, size = copy.deepcopy(model), 0
    for name, parameter in found.named_parameters():
        kept = tensor_type(name, tuple(parameter.shape), kind)
        block, width = gguf.GGML_QUANT_SIZES[kept]
        size += prod(parameter.shape) // block * width
        stored = gguf.quants.dequantize(gguf.quants.quantize(parameter.detach().numpy(), kept), kept)
        parameter.data = torch.from_numpy(stored.reshape(parameter.shape)).float()
    return found, size


def main() -> None:
    rows = json.loads(FILE.read_text("utf-8")) if FILE.exists() else []
    model, tokenizer = load_model(EMBEDDED)
    windows = evaluation_tokens(tokenizer, load_text("evaluation"), length=512, sequences=12)
    ids = calibration_tokens("calibration", tokenizer, sequences=16, length=256, evaluated="evaluation")
    dense = rows[0]["dense"] if rows else perplexity(model, windows).loss
    for ratio in RATIOS:
        left = [kind for kind in TYPES if not any((row["ratio"], row["type"]) == (ratio, kind) for row in rows)]
        if not left:
            continue
        small = prune(model, ids, Settings(ratio=ratio, layers=0, multiple=32, ridge=0.1)).model if ratio else model
        for kind in left:
            stored, size = as_stored(small, kind)
            rows.append(
                {"ratio": ratio, "type": kind, "bytes": size, "loss": perplexity(stored, windows).loss, "dense": dense}
            )
            write_atomically(FILE, (json.dumps(rows, indent=1) + "\n").encode())
            print(f"{ratio:5.1%} {kind:5} {size / 1e6:6.1f} MB {rows[-1]['loss'] - dense:.3f} nats", flush=True)


if __name__ == "__main__":
    sys.exit(main())
