"""The model card (README.md) of a pruned model: where it comes from, what went, and how to load it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..plan import Plan
from ..shape import Shape

COMP = "COMP, [arXiv 2501.15255](https://arxiv.org/abs/2501.15255)"
STOCK = "Any runtime that loads the parent loads this folder; nothing else is needed."
PER_LAYER = (
    "**This folder needs comp_lib.** Its layers differ in width, which no stock model class can express, so "
    "`transformers` alone does not know its model type, `comp_llama`. Install comp_lib and import it first:"
)
REGISTER = "import comp_lib.models.per_layer_llama  # registers comp_llama\n"


@dataclass(frozen=True)
class Provenance:
    """Where a pruned model comes from: the facts on its card that neither the model nor the plan can tell."""

    parent: str  # the model that was pruned: its Hub id, where it has one
    parent_shape: Shape  # its shape, for the table of what was removed
    parent_licence: str | None  # SPDX-like identifier, as the Hub spells it ("apache-2.0"); None: not known
    calibration: str  # one sentence: which text, how many tokens
    method: str  # how neurons were chosen
    recovery: str  # how the rest was re-tuned
    version: str  # of comp_lib
    settings: Mapping[str, object] = field(default_factory=dict)  # everything else that the run was told
    perplexities: tuple[tuple[str, int, float, float], ...] = ()  # (text, tokens, of the parent, of this model)


def model_card(name: str, shape: Shape, plan: Plan, card: Provenance) -> str:
    """The README.md of a model called `name`: YAML front matter, then Markdown."""
    parent, folder = shareable(card.parent), json.dumps(name)
    before, after = _counts(card.parent_shape), _counts(shape)
    removed = [(what, before[what], after[what]) for what in before]
    made = {"neurons chosen by": card.method, "re-tuned by": card.recovery, "calibrated on": card.calibration}
    measured = [(text, f"{tokens:,}", f"{p:.2f}", f"{q:.2f}") for text, tokens, p, q in card.perplexities]
    licence = f"`{card.parent_licence}`" if card.parent_licence else "not known to the tool: ask its makers"
    # JSON is YAML, and quotes what needs quoting
    return f"""\
---
license: {json.dumps(card.parent_licence or "unknown")}
base_model: {json.dumps(parent)}
library_name: "transformers"
pipeline_tag: "text-generation"
tags: ["comp-lib", "structured-pruning", "pruned"]
---

# {name}

A smaller copy of {parent}: {plan.removed:.1%} of the parameters of its {plan.of} were removed by structured pruning \
({COMP if "condition" in card.method else card.method}), with comp_lib {card.version}.

## What was removed

{_table(("", "parent", "this model"), removed)}

Decoder layers dropped (counted from 0 in the parent): {", ".join(map(str, plan.dropped)) or "none"}. \
`comp_plan.json` lists what was kept.

## How

{_table(("setting", "value"), {**made, **card.settings}.items())}

## Measured perplexity

{_table(("text", "tokens", "parent", "this model"), measured) if measured else "Not measured."}

## How to load

{STOCK if shape.stock else PER_LAYER}

```python
{"" if shape.stock else REGISTER}from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({folder})
tokenizer = AutoTokenizer.from_pretrained({folder})
```

## Licence

That of the parent model ({licence}) holds for this model too.
"""


def _counts(shape: Shape) -> dict[str, str]:
    heads = tuple(groups * shape.group_heads for groups in shape.kv_groups)
    return {
        "decoder layers": f"{shape.layers}",
        "MLP neurons per layer": _span(shape.neurons),
        "query heads per layer": _span(heads),
        "KV heads per layer": _span(shape.kv_groups),
        "parameters of the decoder": f"{shape.decoder:,}",
        "parameters of the model": f"{shape.total:,}",
    }


def _span(widths: tuple[int, ...]) -> str:
    low, high = min(widths), max(widths)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    cells = [head, ("---",) * len(head), *([shareable(cell).replace("|", "/") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in cells)


def shareable(value: object) -> str:
    """`value` as text; of a path, only its last part: folder names of this machine are nobody's business.

    >>> shareable("/home/me/models/tiny")
    'tiny'
    """
    text = str(value)
    return os.path.basename(os.path.abspath(text)) if os.path.isabs(text) or os.path.exists(text) else text
