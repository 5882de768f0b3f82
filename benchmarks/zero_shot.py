"""What the real model can still do after pruning by a fifth: accuracy in the offline tasks, method by method.

    python benchmarks/zero_shot.py [--text FILE] [--sequences 32] [--ratio 0.2] [--methods comp,llm-pruner,...]

Every method gets the same calibration tokens; a FILE calibrates with its first part, as in `headline.py`. The tasks,
and what scores them, are those of `comp-lib evaluate --tasks offline`. Rows are printed and kept in
benchmarks/zero_shot.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

import headline

from comp_lib.atomic import write_atomically
from comp_lib.calibration import calibration_tokens
from comp_lib.cell import decoder_parameters
from comp_lib.models import load_model
from comp_lib.prune import Settings, prune
from comp_lib.settings import default_recovery
from comp_lib.zero_shot import OFFLINE, zero_shot

FILE = Path(__file__).with_suffix(".json")
DENSE = "dense"


def main() -> None:
    parser = headline.options(__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.2, help="of the decoder's parameters to remove, at least")
    parser.add_argument("--methods", default="comp,llm-pruner,flap,wanda-sp", help="separated by commas")
    arguments = parser.parse_args()
    rows = [
        score(arguments, None),
        *(score(arguments, Settings(arguments.ratio, method=method, recovery=default_recovery(method), multiple=32))
          for method in arguments.methods.split(",")),
    ]  # fmt: skip
    means = {row["method"]: fmean(row["accuracy"].values()) for row in rows}
    for name, mean in means.items():
        against = means.get("llm-pruner")
        print(f"{name:12}{mean:.4f}" + (f"  {mean / against - 1:+.2%} against llm-pruner" if against else ""))


def score(arguments, settings: Settings | None) -> dict:
    """Prune the model, or not, ask it the tasks, print, and keep the row."""
    model, tokenizer = load_model(arguments.model)
    parameters, method = decoder_parameters(model), DENSE if settings is None else settings.method
    if settings is not None:
        source, _ = headline.texts(arguments.text)
        ids = calibration_tokens(source, tokenizer, sequences=arguments.sequences, length=arguments.length)
        model = prune(model, ids, settings, inplace=True).model
    scores = [each for each in zero_shot(model, tokenizer, OFFLINE) if each.task in OFFLINE]  # not their members
    row = {
        "model": arguments.model, "method": method, "ratio": settings.ratio if settings else 0.0,
        "calibration": arguments.text.name if arguments.text else "calibration",
        "sequences": arguments.sequences, "length": arguments.length,
        "removed": (parameters - decoder_parameters(model)) / parameters,
        "accuracy": {each.task: each.acc for each in scores}, "stderr": {each.task: each.acc_stderr for each in scores},
    }  # fmt: skip
    print(f"{method:12}{row['removed']:.1%} removed: " + ", ".join(f"{task} {acc:.4f}" for task, acc in
                                                                    row["accuracy"].items()))  # fmt: skip
    keep(row)
    return row


def keep(row: dict) -> None:
    """Into FILE, in the place of an older row of the same run."""
    same = ("model", "method", "ratio", "calibration", "sequences", "length")
    rows = json.loads(FILE.read_text("utf-8")) if FILE.exists() else []
    rows = [old for old in rows if any(old[name] != row[name] for name in same)]
    write_atomically(FILE, (json.dumps([*rows, row], indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
