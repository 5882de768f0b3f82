"""What the dense model answers in the offline tasks: `python benchmarks/zero_shot.py [--model gemma3-270m]`

`kinds.py --tasks` asks pruned models the same. The tasks, and what scores them, are those of `comp-lib evaluate --tasks
offline`. The row is printed and kept in benchmarks/zero_shot.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import keep_row, parser_of
from torch import nn

from comp_lib.evaluation.zero_shot import SETS, load_tasks, zero_shot
from comp_lib.models.load import load_model

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("accuracy", "stderr", "choice_loss")


def main() -> None:
    name = parser_of(__doc__).parse_args().model
    row = {"model": name, **answers(*load_model(name))}
    print(json.dumps(row))
    keep_row(FILE, row, MEASURED)


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
