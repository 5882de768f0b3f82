"""What the real model can still do after pruning by a fifth: accuracy in the offline tasks, method by method.

    python benchmarks/zero_shot.py [--text FILE] [--sequences 32] [--ratio 0.2] [--methods comp,llm-pruner,...]
    python benchmarks/zero_shot.py --model gemma3-270m --methods ""

Every method gets the same calibration tokens; a FILE calibrates with its first part, as in `headline.py`. The tasks,
and what scores them, are those of `comp-lib evaluate --tasks offline`. Rows are printed and kept in
benchmarks/zero_shot.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import decoder_parameters, keep_row, options, settings_of, texts
from torch import nn

from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.zero_shot import SETS, load_tasks, zero_shot
from comp_lib.models.load import load_model
from comp_lib.prune import prune

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("removed", "accuracy", "stderr", "choice_loss")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--ratio", type=float, default=0.2, help="of the decoder's parameters to remove, at least")
    parser.add_argument(
        "--methods", default="comp,llm-pruner,flap,wanda-sp", help="separated by commas; none: the dense model only"
    )
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    source, _ = texts(arguments.text)
    ids = calibration_tokens(source, tokenizer, sequences=arguments.sequences, length=arguments.length)
    asked = {
        "model": arguments.model,
        "calibration": arguments.text.name if arguments.text else "calibration",
        "sequences": arguments.sequences,
        "length": arguments.length,
    }
    parameters, means = decoder_parameters(model), {}

    def score(method: str, ratio: float, small: nn.Module) -> None:
        removed = (parameters - decoder_parameters(small)) / parameters
        found = answers(small, tokenizer)
        means[method] = fmean(found["accuracy"].values())
        words = ", ".join(f"{task} {accuracy:.4f}" for task, accuracy in found["accuracy"].items())
        print(f"{method:12}{removed:.1%} removed: {words}")
        row = {"method": method, "ratio": ratio, **asked, "removed": removed, **found}
        keep_row(FILE, row, MEASURED)

    score("dense", 0.0, model)
    for method in filter(None, arguments.methods.split(",")):
        settings = settings_of(json.dumps({"method": method, "ratio": arguments.ratio}))
        score(method, arguments.ratio, prune(model, ids, settings).model)
    against = means.get("llm-pruner")
    for name, mean in means.items():
        print(f"{name:12}{mean:.4f}" + (f"  {mean / against - 1:+.2%} against llm-pruner" if against else ""))


def answers(model: nn.Module, tokenizer: Any) -> dict[str, dict[str, float | None]]:
    """Accuracy in each offline task as a whole, its standard error, and the cross-entropy over the choices, nats."""
    results = zero_shot(model, tokenizer, load_tasks("offline"))
    found: dict[str, dict[str, float | None]] = {"accuracy": {}, "stderr": {}, "choice_loss": {}}
    for task in SETS["offline"]:
        values = results["results"][task]
        found["accuracy"][task], found["stderr"][task] = values["acc,none"], values["acc_stderr,none"]
        samples = [each for leaf in results["group_subtasks"].get(task, [task]) for each in results["samples"][leaf]]
        found["choice_loss"][task] = fmean(map(choice_loss, samples))
    return found


def choice_loss(sample: dict[str, Any]) -> float:
    """- log of the right answer's share of the probability of all answers, nats."""
    values = torch.tensor([value for value, _ in sample["filtered_resps"]], dtype=torch.float64)
    return -values.log_softmax(0)[sample["target"]].item()


if __name__ == "__main__":
    sys.exit(main())
