"""The card of a pruned model: what it was made of, how, what it costs, and how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import __version__
from ..decoder.own_widths.modelling_file import file_name
from ..decoder.shape import Shape, widths_in_words
from ..hybrid_granularity.plan import Plan
from ..utils.files import hide_folders
from .own_texts import CARD_FILE
from .wheels import WHEELS

CALIBRATED_ON = "calibrated_on: "  # beginning of the line of a card that holds `text_hashes`
STOCK_NOTE = "Any runtime that loads the parent loads this folder; nothing else is needed."
OWN_WIDTHS_NOTE = """\
The layers of this folder differ in width, which no stock class builds. So it brings a short file of Python, \
`{file}`. Read it, and let transformers run it:"""
WITH_COMP_LIB_NOTE = """
Where comp-lib is installed, `comp_lib.load_model` gives both without the flag: it has classes \
of its own, and runs nothing of this folder. `comp-lib export --padded` fills narrower layers up; that \
folder needs neither.
"""
TRUST = ", trust_remote_code=True"


@dataclass(frozen=True)
class Provenance:
    """Where a pruned model comes from: the facts on its card that neither the model nor the plan can tell."""

    parent_name: str
    """The name by which the parent was loaded; for a name of WHEELS the card has Hub id and licence."""
    parent_shape: Shape
    """The shape of the parent, for the table of what was removed."""
    calibration: str
    """The text of the calibration and its number of tokens, as words after "Calibrated on"."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The settings of the run, by name."""
    perplexities: tuple[tuple[str, int, float, float], ...] = ()
    """Rows (text, tokens, perplexity of the parent, perplexity of this model)."""
    command: str = ""
    """The command that made the model; empty: none did."""
    hashes: tuple[str, ...] = ()
    """`text_hashes` of the text of the calibration."""


def model_card(name: str, shape: Shape, plan: Plan, provenance: Provenance, model_type: str) -> str:
    """The README.md of a model called `name`: YAML front matter (JSON is YAML), then Markdown."""
    wheel = WHEELS.get(provenance.parent_name)
    parent = hide_folders(provenance.parent_name) if wheel is None else wheel.source
    licence = None if wheel is None else wheel.licence
    settings = ", ".join(f"{setting} {hide_folders(value)}" for setting, value in provenance.settings.items())
    command = f" Made by\n\n```bash\n{provenance.command}\n```" if provenance.command else ""
    note = STOCK_NOTE
    trust = ""
    with_comp_lib = ""
    if not shape.fits_stock_config:
        note = OWN_WIDTHS_NOTE.format(file=file_name(model_type))
        trust = TRUST
        with_comp_lib = WITH_COMP_LIB_NOTE
    return f"""\
---
license: {json.dumps(licence or "unknown")}
base_model: {json.dumps(parent)}
library_name: "transformers"
pipeline_tag: "text-generation"
tags: ["comp-lib", "structured-pruning", "pruned"]
{CALIBRATED_ON}{json.dumps(provenance.hashes)}
---

# {name}

A smaller copy of {parent}: {plan.removed:.1%} of the parameters of its decoder were removed \
by structured pruning with comp_lib {__version__} ([arXiv 2501.15255](https://arxiv.org/abs/2501.15255)). \
`comp_plan.json` lists the layers, neurons and KV groups that were kept.

{_comparison_table(shape, provenance)}

Calibrated on {provenance.calibration}. Settings: {settings or "those of comp_lib"}.{command}

## How to load

{note}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({json.dumps(name)}{trust})
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)}{trust})
```
{with_comp_lib}
The licence of the parent model ({licence or "not known to the tool: ask its makers"}) holds for it too.
"""


def _comparison_table(shape: Shape, provenance: Provenance) -> str:
    """A table in Markdown: the parent beside this model, whose shape is `shape`."""
    parent = provenance.parent_shape
    rows: list[tuple[object, object, object]] = [
        ("", "parent", "this model"),
        ("---", "---", "---"),
        ("decoder layers", parent.layer_count, shape.layer_count),
        ("MLP neurons per layer", widths_in_words(parent.neurons), widths_in_words(shape.neurons)),
        ("KV heads per layer", widths_in_words(parent.kv_groups), widths_in_words(shape.kv_groups)),
        ("parameters of the decoder", f"{parent.decoder_parameters:,}", f"{shape.decoder_parameters:,}"),
        ("parameters of the model", f"{parent.total_parameters:,}", f"{shape.total_parameters:,}"),
    ]
    for text, tokens, parent_perplexity, perplexity in provenance.perplexities:
        rows.append(
            (f"perplexity on {text} ({tokens:,} tokens)", f"{parent_perplexity:.2f}", f"{perplexity:.2f}")
        )
    return "\n".join(f"| {label} | {before} | {after} |" for label, before, after in rows)


def calibration_hashes(folder: str | Path) -> tuple[str, ...]:
    """`text_hashes` of the text that calibrated the model in `folder`, as its card says.

    It is () for a folder without such a card.
    """
    card = Path(folder).expanduser() / CARD_FILE
    if not card.is_file():
        return ()
    for line in card.read_text("utf-8", errors="replace").splitlines():
        if line.startswith(CALIBRATED_ON):
            return tuple(re.findall(r'"([0-9a-f]{16})"', line))
    return ()
