"""What pruning the real model by a fifth costs, in quality, time and memory.

    python benchmarks/headline.py [--text FILE] [--sequences 32] [--set '{"method": "flap", "recovery": "bias"}'] ...

One process does everything: imports, a look at its memory, load and prune, another look at the peak, then one dense
forward pass over the same calibration tokens as the unit of time, then the perplexities on text that was not used for
calibration. The machine's speed cancels in the ratios; nothing here is a test. Each call prints its row and keeps it
in benchmarks/headline.json, from which benchmarks/readme.py writes a table into README.md. `others.py` beside it puts
other packages through the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from comp_lib.calibration.stream import batches
from comp_lib.calibration.text import load_text
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.compare.one_run import decoder_parameters
from comp_lib.evaluation.loss import evaluation_tokens, perplexity
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.prune import prune
from comp_lib.settings import Settings, default_recovery
from comp_lib.system.atomic import write_atomically
from comp_lib.system.machine import finish, peak_bytes

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("removed", "increases", "passes", "peak_megabytes")  # the rest of a row says what was asked
CALIBRATION_SHARE = 0.7  # of a file: the first part calibrates, the rest evaluates


def options(description: str) -> argparse.ArgumentParser:
    """What every run that is kept can be asked: the model, the texts, and how much of them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--text", type=Path, help="to split in two; default: the project's own")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    return parser


def judge_options(description: str) -> argparse.ArgumentParser:
    """Those, and how much `judge` reads."""
    parser = options(description)
    parser.add_argument("--windows", type=int, default=20, help="of 512 tokens, evaluated on each text")
    return parser


def main() -> None:
    parser = judge_options(__doc__.splitlines()[0])
    parser.add_argument("--set", default="{}", help="more Settings as JSON")
    arguments = parser.parse_args()
    changes = {"ratio": 0.2, "multiple": 32, **json.loads(arguments.set)}
    settings = Settings(**{"recovery": default_recovery(changes.get("method", "comp")), **changes})

    def narrow(model: nn.Module, ids: Tensor) -> tuple[nn.Module, dict]:
        pruned = prune(model, ids, settings, inplace=True)
        return pruned.model, pruned.report.settings

    keep(judge(arguments, narrow)[0])


def texts(file: Path | None) -> tuple[str | Path, dict[str, str]]:
    """The text that calibrates, by name or path, and those that judge, by their names.

    Of a `file` the first CALIBRATION_SHARE calibrates, from a file in build/, and the rest judges too.
    """
    evaluations = {"evaluation": load_text("evaluation")}
    if file is None:
        return "calibration", evaluations
    whole = load_text(file)
    cut = int(len(whole) * CALIBRATION_SHARE)
    source = Path("build") / "calibration-part.txt"
    source.parent.mkdir(exist_ok=True)
    source.write_text(whole[:cut], encoding="utf-8")
    return source, {**evaluations, f"{file.name}, other part": whole[cut:]}


@torch.inference_mode()
def dense_pass(model: nn.Module, ids: Tensor) -> float:
    """Seconds of one forward pass over `ids` (S, L), logits included, after a first touch that reads the weights."""
    model(input_ids=ids[:1], use_cache=False)
    finish(ids.device)
    started = time.perf_counter()
    for rows in batches(*ids.shape):
        model(input_ids=ids[rows], use_cache=False)
    finish(ids.device)
    return time.perf_counter() - started


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


def keep(row: dict, file: Path | None = None, measured: Sequence[str] = MEASURED) -> None:
    """Into a file (default: FILE), in the place of an older row that differs in nothing but what was measured."""
    file = FILE if file is None else file
    same = {name: value for name, value in row.items() if name not in measured}
    rows = json.loads(file.read_text("utf-8")) if file.exists() else []
    rows = [old for old in rows if {name: value for name, value in old.items() if name not in measured} != same]
    write_atomically(file, (json.dumps([*rows, row], indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
