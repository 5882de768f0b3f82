"""What the dense model answers in the offline tasks: `python benchmarks/zero_shot.py [--model gemma3-270m]`

`kinds.py --tasks` asks pruned models the same. The tasks, and what scores them, are those of `comp-lib
evaluate --tasks offline`. The row is printed and kept in benchmarks/zero_shot.json. With `--type bfloat16` it
takes a third of the time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import models
import torch
from common import keep_row, parser_of
from torch import nn

from comp_lib.evaluation.zero_shot import SETS, load_tasks, zero_shot

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("accuracy", "stderr", "choice_loss", "type")
TYPES = ("float32", "bfloat16")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--type", choices=TYPES, default=TYPES[0], help="of the products")
    arguments = parser.parse_args()
    model, tokenizer = models.load(arguments.model)
    row = {"model": arguments.model, **answers(model, tokenizer, arguments.type)}
    print(json.dumps(row))
    keep_row(FILE, row, MEASURED)


def answers(model: nn.Module, tokenizer: Any, kind: str) -> dict[str, Any]:
    """Accuracy in each offline task, its standard error, and the cross-entropy over the choices in nats.

    kind: one of TYPES, in which the model multiplies matrices from now on. Sums and norms stay in float32: in
    bfloat16 the answers of SmolLM2 move by 0.2 nats a token.
    """
    if kind == "bfloat16":
        multiply_in_bfloat16(model)
    results = zero_shot(model, tokenizer, load_tasks("offline"))
    accuracy = {}
    standard_error = {}
    cross_entropy = {}
    for task in SETS["offline"]:
        values = results["results"][task]
        accuracy[task] = values["acc,none"]
        standard_error[task] = values["acc_stderr,none"]
        subtasks = results["group_subtasks"].get(task, [task])
        samples = [sample for subtask in subtasks for sample in results["samples"][subtask]]
        cross_entropy[task] = fmean(map(choice_loss, samples))
    return {"type": kind, "accuracy": accuracy, "stderr": standard_error, "choice_loss": cross_entropy}


def multiply_in_bfloat16(model: nn.Module) -> None:
    linears = [module for module in model.model.layers.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        for name, values in list(linear.named_parameters()):
            # a new parameter, because some tensors are the dense model's too
            setattr(linear, name, nn.Parameter(values.detach().bfloat16(), requires_grad=False))
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)


def choice_loss(sample: dict[str, Any]) -> float:
    """- log of the right answer's share of the probability of all answers, nats."""
    values = torch.tensor([value for value, _ in sample["filtered_resps"]], dtype=torch.float64)
    return -values.log_softmax(0)[sample["target"]].item()


if __name__ == "__main__":
    sys.exit(main())
