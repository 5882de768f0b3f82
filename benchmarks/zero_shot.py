"""What the dense model answers in the offline tasks: `python benchmarks/zero_shot.py [--model gemma3-270m]`

`kinds.py --tasks` asks pruned models the same. The tasks, and what scores them, are those of `comp-lib evaluate --tasks
offline`. The row is printed and kept in benchmarks/zero_shot.json. With `--type bfloat16` it takes a third of the time.
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
MEASURED = ("accuracy", "stderr", "choice_loss", "type")
TYPES = ("float32", "bfloat16")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--type", choices=TYPES, default=TYPES[0], help="of the products")
    arguments = parser.parse_args()
    row = {"model": arguments.model, **answers(*load_model(arguments.model), arguments.type)}
    print(json.dumps(row))
    keep_row(FILE, row, MEASURED)


def answers(model: nn.Module, tokenizer: Any, kind: str) -> dict[str, Any]:
    """Accuracy in each offline task as a whole, its standard error, and the cross-entropy over the choices, nats.

    kind: one of TYPES, in which matrices are multiplied from now on. Sums and norms stay in float32: in bfloat16 the
    answers of SmolLM2 move by 0.2 nats a token.
    """
    if kind == "bfloat16":
        linears = [part for part in model.model.layers.modules() if isinstance(part, nn.Linear)]
        for part in linears:
            for name, values in [
                *part.named_parameters()
            ]:  # new ones: some are the dense model's tensors too
                setattr(part, name, nn.Parameter(values.detach().bfloat16(), requires_grad=False))
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    results = zero_shot(model, tokenizer, load_tasks("offline"))
    found: dict[str, Any] = {"type": kind, "accuracy": {}, "stderr": {}, "choice_loss": {}}
    for task in SETS["offline"]:
        values = results["results"][task]
        found["accuracy"][task], found["stderr"][task] = values["acc,none"], values["acc_stderr,none"]
        samples = [
            each for leaf in results["group_subtasks"].get(task, [task]) for each in results["samples"][leaf]
        ]
        found["choice_loss"][task] = fmean(map(choice_loss, samples))
    return found


def choice_loss(sample: dict[str, Any]) -> float:
    """- log of the right answer's share of the probability of all answers, nats."""
    values = torch.tensor([value for value, _ in sample["filtered_resps"]], dtype=torch.float64)
    return -values.log_softmax(0)[sample["target"]].item()


if __name__ == "__main__":
    sys.exit(main())
