"""What pruning the real model by a fifth costs, in quality, time and memory.

    python benchmarks/headline.py [--text FILE] [--sequences 32] [--set '{"method": "flap", "recovery": "bias"}'] ...

One process does everything: imports, a look at its memory, load and prune, another look at the peak, then one dense
forward pass over the same calibration tokens as the unit of time, then the perplexities on text that was not used for
calibration. The machine's speed cancels in the ratios; nothing here is a test. Each call prints its row and keeps it
in benchmarks/headline.json, from which benchmarks/readme.py writes a table of docs/measured.md. `others.py` beside it
puts other packages through the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from common import decoder_parameters, dense_pass, keep_row, options, settings_of, texts
from torch import Tensor, nn

from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.loss import evaluation_tokens, perplexity
from comp_lib.models.load import load_model
from comp_lib.prune import prune
from comp_lib.system.machine import peak_bytes

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("removed", "increases", "passes", "peak_megabytes")  # the rest of a row says what was asked


def judge_options(description: str) -> argparse.ArgumentParser:
    """Those, and how much `judge` reads."""
    parser = options(description)
    parser.add_argument("--windows", type=int, default=20, help="of 512 tokens, evaluated on each text")
    return parser


def main() -> None:
    parser = judge_options(__doc__)
    parser.add_argument("--set", default="{}", help="more Settings as JSON")
    arguments = parser.parse_args()
    settings = settings_of(arguments.set)

    def narrow(model: nn.Module, ids: Tensor) -> tuple[nn.Module, dict]:
        pruned = prune(model, ids, settings, inplace=True)
        return pruned.model, pruned.report.settings

    keep(judge(arguments, narrow)[0])


def judge(
    arguments: argparse.Namespace, narrow: Callable[[nn.Module, Tensor], tuple[nn.Module, dict]]
) -> tuple[dict, nn.Module]:
    """Load, narrow, measure and print: the row to `keep`, and the smaller model.

    `narrow` gets the model, which is its own to change, and the calibration tokens (S, L); it returns the smaller
    model and the settings of the row. Call it once in a process, with everything imported: memory counts from here.
    """
    baseline = psutil.Process().memory_info().rss / 2**20
    model, tokenizer = load_model(arguments.model)
    source, evaluations = texts(arguments.text)
    ids = calibration_tokens(source, tokenizer, sequences=arguments.sequences, length=arguments.length)
    parameters = decoder_parameters(model)

    start = time.perf_counter()
    small, settings = narrow(model, ids)
    seconds = time.perf_counter() - start
    peak = peak_bytes() / 2**20 - baseline
    removed = (parameters - decoder_parameters(small)) / parameters
    del model

    dense, _ = load_model(arguments.model)
    unit = dense_pass(dense, ids)
    print(f"{arguments.model}, {ids.numel():,} calibration tokens, {removed:.1%} of the decoder removed")
    print(f"settings      {json.dumps(settings)}")
    print(f"time          {seconds:.1f} s = {seconds / unit:.2f} dense forward passes of {unit:.1f} s")
    print(f"peak memory   {peak:.0f} MB above imports ({baseline:.0f} MB)")
    increases = {}
    for name, text in evaluations.items():
        windows = evaluation_tokens(tokenizer, text, sequences=arguments.windows)
        before, after = perplexity(dense, windows), perplexity(small, windows)
        increases[name] = after.loss - before.loss
        print(
            f"{name:14}{after.loss - before.loss:.4f} nats more: perplexity {before.perplexity:.2f} -> "
            f"{after.perplexity:.2f} on {before.tokens:,} tokens"
        )
    row = {
        "model": arguments.model,
        "calibration": arguments.text.name if arguments.text else "calibration",
        "sequences": arguments.sequences,
        "length": arguments.length,
        "windows": arguments.windows,
        "settings": settings,
        "removed": removed,
        "increases": increases,
        "passes": seconds / unit,
        "peak_megabytes": peak,
    }
    return row, small


def keep(row: dict) -> None:
    """Into FILE, in the place of an older row that was asked for the same."""
    keep_row(FILE, row, MEASURED)


if __name__ == "__main__":
    sys.exit(main())
