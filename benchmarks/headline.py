"""What pruning the real model by a fifth costs, in quality, time and memory.

    python benchmarks/headline.py [--text FILE] [--set '{"method": "flap", "recovery": "bias"}']

One process does everything. It imports, looks at its memory, loads and prunes, and looks at the peak. Then
one dense forward pass over the same calibration tokens gives the unit of time. Last come the perplexities on
text that was not used for calibration. The machine's speed cancels in the ratios; nothing here is a test.
Each call prints its row and keeps it in benchmarks/headline.json, from which benchmarks/readme.py writes a
table of RESULTS.md; lesson 00 shows some rows, too.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import models
import psutil
from common import decoder_parameters, dense_pass, keep_row, options, settings_of, texts

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.pruning.comp import prune
from comp_lib.utils.machine import peak_bytes

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("removed", "increases", "passes", "peak_megabytes")  # the other fields say what was asked for


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--windows", type=int, default=20, help="of 512 tokens, evaluated on each text")
    parser.add_argument("--set", default="{}", help="Settings as JSON")
    arguments = parser.parse_args()
    settings = settings_of(arguments.set)
    baseline = psutil.Process().memory_info().rss / 2**20
    model, tokenizer = models.load(arguments.model)
    source, evaluations = texts(arguments.text)
    ids = calibration_tokens(
        source, tokenizer, sequences=arguments.sequences, length=arguments.length, judged_on="evaluation"
    )
    parameters = decoder_parameters(model)

    start = time.perf_counter()
    pruned = prune(model, ids, settings, inplace=True)
    seconds = time.perf_counter() - start
    peak = peak_bytes() / 2**20 - baseline
    removed = (parameters - decoder_parameters(pruned.model)) / parameters
    del model

    dense, _ = models.load(arguments.model)
    unit = dense_pass(dense, ids)
    print(f"{arguments.model}, {ids.numel():,} calibration tokens, {removed:.1%} of the decoder removed")
    print(f"settings      {json.dumps(asdict(pruned.report.settings))}")
    print(f"time          {seconds:.1f} s = {seconds / unit:.2f} dense forward passes of {unit:.1f} s")
    print(f"peak memory   {peak:.0f} MB above imports ({baseline:.0f} MB)")
    increases = {}
    for name, text in evaluations.items():
        windows = evaluation_tokens(tokenizer, text, window_count=arguments.windows)
        before = measure_loss(dense, windows)
        after = measure_loss(pruned.model, windows)
        increases[name] = after.loss - before.loss
        print(
            f"{name:14}{after.loss - before.loss:.4f} nats more: perplexity {before.perplexity:.2f} -> "
            f"{after.perplexity:.2f} on {before.token_count:,} tokens"
        )
    row = {
        "model": arguments.model,
        "calibration": arguments.text.name if arguments.text else "calibration",
        "sequences": arguments.sequences,
        "length": arguments.length,
        "windows": arguments.windows,
        "settings": asdict(pruned.report.settings),
        "removed": removed,
        "increases": increases,
        "passes": seconds / unit,
        "peak_megabytes": peak,
    }
    keep_row(FILE, row, MEASURED)


if __name__ == "__main__":
    sys.exit(main())
