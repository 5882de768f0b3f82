"""Checkpoint: a folder on disk that says what it is, and that is never half written.

The folder holds `config.json`, the weights as safetensors, the tokenizer, `generation_config.json`, a model card
(`README.md`) and the plan (`comp_plan.json`). Weights up to 5 GB are one `model.safetensors`, more are shards of that
size and an index. With stock widths it is a plain folder of the parent's family, which any runtime loads; with widths
that differ from layer to layer it needs `models.own_widths.register` first, and the card says so. Nothing in it tells
of the machine that made it, and the same input gives the same bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..errors import InputError
from ..families.protocol import Model
from ..families.table import OWN
from ..plan import Plan
from ..shape import Shape, span
from ..system.atomic import check_room, read_object, resolved, staged
from ..system.tensors import LARGEST_FILE_BYTES
from .load import quiet
from .meta_model import described
from .wheels import WHEELS

CARD_FILE, PLAN_FILE = "README.md", "comp_plan.json"
# All that a model's folder has, from us, transformers or the Hub; whatever else lies in one is somebody's.
KNOWN = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|comp_plan)\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.model|merges\.txt|chat_template\.jinja|additional_chat_templates|README\.md"
)
CALIBRATED = "calibrated_on: "
SMALL_FILES = 16 << 20  # bytes, generously, of all that is not weights: mostly the tokenizer
STOCK = "Any runtime that loads the parent loads this folder; nothing else is needed."
OWN_WIDTHS = (
    "**This folder needs comp_lib**, as its layers differ in width: `transformers` knows its model type once it is "
    "registered. `comp-lib export --padded` fills narrower layers up; that folder needs nothing."
)
REGISTER = "from comp_lib.models.own_widths import register\n\nregister({})\n"


@dataclass(frozen=True)
class Provenance:
    """Where a pruned model comes from: the facts on its card that neither the model nor the plan can tell."""

    parent: str  # the model that was pruned, as it was loaded; the card names the Hub id and the licence of WHEELS
    parent_shape: Shape  # for the table of what was removed
    calibration: str  # one sentence: which text, how many tokens
    settings: Mapping[str, object] = field(default_factory=dict)  # what the run was told
    perplexities: tuple[
        tuple[str, int, float, float], ...
    ] = ()  # (text, tokens, of the parent, of this model)
    command: str = ""  # that made it
    hashes: tuple[str, ...] = ()  # `text_hashes` of what calibrated it


def save_checkpoint(
    folder: str | Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    card: Provenance,
    *,
    overwrite: bool = False,
) -> Path:
    """Write `model` (as surgery left it; it is not changed) with all that belongs to it. Returns the folder.

    Raises InputError for what `check_destination` refuses before anything is written.
    """
    shape, target = Shape.of(model), resolved(folder)
    check_destination(folder, overwrite, shape.total * model.dtype.itemsize)
    result = described(model)
    with staged(target) as partial:
        write_weights(partial, result)
        save_metadata(partial, target.name, tokenizer, shape, plan, card)
    return Path(folder).expanduser()


def write_weights(folder: Path, model: Model) -> None:
    """The config and the weights of `model`, which whoever may read the one may read as well: safetensors are 0600."""
    with quiet():
        model.save_pretrained(folder, max_shard_size=LARGEST_FILE_BYTES)
    for path in folder.glob("*.safetensors"):
        path.chmod((folder / "config.json").stat().st_mode)


def save_metadata(
    folder: Path, name: str, tokenizer: PreTrainedTokenizerBase, shape: Shape, plan: Plan, card: Provenance
) -> None:
    """All that belongs to the checkpoint `name` beside its weights and its config, which is there."""
    tokenizer.save_pretrained(folder)
    (folder / PLAN_FILE).write_text(replace(plan, parent=shareable(plan.parent)).to_json(), encoding="utf-8")
    model_type = read_object(folder / "config.json")["model_type"].removeprefix(OWN)
    (folder / CARD_FILE).write_text(model_card(name, shape, plan, card, model_type), encoding="utf-8")


def check_destination(
    folder: str | Path, overwrite: bool = False, needed_bytes: int = 0, *sources: str | Path
) -> None:
    """Raises InputError unless `folder` can be written, so that no hour of work ends in a refusal.

    needed_bytes: of the weights, 0 where they are written. A place that holds anything is refused; with `overwrite` all
    but a pruned model of ours is, and so are the places of models that are read, `sources`, and the folder one is in.
    """
    target = resolved(folder)
    above = next(path for path in (*target.parents, target) if path.exists())  # "/", at last, does
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK) or target.is_file() or target.is_mount():
        raise InputError(f"expected a folder that can be written to, got {folder}: choose another place")
    if needed_bytes:
        check_room(above, needed_bytes + SMALL_FILES, folder)
    content = sorted(path.name for path in target.iterdir()) if target.exists() else []
    if content and not overwrite:
        got = f"{folder} with files in it: choose another name or say --overwrite"
        raise InputError(f"expected a new or an empty folder, got {got}")
    foreign = [name for name in content if not KNOWN.fullmatch(name)]
    if content and (foreign or PLAN_FILE not in content):
        got = f"{folder} with {', '.join(foreign[:3]) or f'no {PLAN_FILE}'} in it: choose another name"
        raise InputError(f"expected a pruned model to overwrite, and nothing beside it, got {got}")
    origins = [Path.cwd(), *map(resolved, sources)]
    if target.exists() and any(one.exists() and one.samefile(target) for one in origins):
        got = f"{folder}: choose another place"
        raise InputError(
            f"expected a folder apart from the models that are read and the one you are in, got {got}"
        )


def model_card(name: str, shape: Shape, plan: Plan, card: Provenance, model_type: str) -> str:
    """The README.md of a model called `name`: YAML front matter (JSON is YAML), then Markdown."""
    known, dense = WHEELS.get(card.parent, {}), card.parent_shape
    parent, licence = known.get("source", shareable(card.parent)), known.get("licence")
    rows = [
        ("", "parent", "this model"),
        ("---", "---", "---"),
        ("decoder layers", dense.layers, shape.layers),
        ("MLP neurons per layer", span(dense.neurons), span(shape.neurons)),
        ("KV heads per layer", span(dense.kv_groups), span(shape.kv_groups)),
        ("parameters of the decoder", f"{dense.decoder:,}", f"{shape.decoder:,}"),
        ("parameters of the model", f"{dense.total:,}", f"{shape.total:,}"),
        *(
            (f"perplexity on {text} ({n:,} tokens)", f"{p:.2f}", f"{q:.2f}")
            for text, n, p, q in card.perplexities
        ),
    ]
    table = "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
    settings = ", ".join(f"{name} {shareable(value)}" for name, value in card.settings.items())
    command = f" Made by\n\n```bash\n{card.command}\n```" if card.command else ""
    register = "" if shape.stock else REGISTER.format(json.dumps(model_type))
    return f"""\
---
license: {json.dumps(licence or "unknown")}
base_model: {json.dumps(parent)}
library_name: "transformers"
pipeline_tag: "text-generation"
tags: ["comp-lib", "structured-pruning", "pruned"]
{CALIBRATED}{json.dumps(card.hashes)}
---

# {name}

A smaller copy of {parent}: {plan.removed:.1%} of the parameters of its decoder were removed by structured pruning \
with comp_lib {__version__} ([arXiv 2501.15255](https://arxiv.org/abs/2501.15255)). \
`comp_plan.json` lists the layers, neurons and KV groups that were kept.

{table}

Calibrated on {card.calibration}. Settings: {settings or "those of comp_lib"}.{command}

## How to load

{STOCK if shape.stock else OWN_WIDTHS}

```python
{register}from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({json.dumps(name)})
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})
```

The licence of the parent model ({licence or "not known to the tool: ask its makers"}) holds for it too.
"""


def calibrated_on(folder: str | Path) -> tuple[str, ...]:
    """`text_hashes` of what calibrated the model in a folder, as its card says; () of any other model."""
    card = Path(folder).expanduser() / CARD_FILE
    lines = card.read_text("utf-8", errors="replace").splitlines() if card.is_file() else []
    line = next((each for each in lines if each.startswith(CALIBRATED)), f"{CALIBRATED}[]")
    with suppress(ValueError, TypeError):  # of a card that somebody edited
        return tuple(json.loads(line.removeprefix(CALIBRATED)))
    return ()


def shareable(value: object) -> str:
    """`value` as text; of a path, only its last part: folder names of this machine are nobody's business.

    >>> shareable("/models/tiny"), shareable("general+/texts/mine.txt")
    ('tiny', 'general+mine.txt')
    """
    text = str(value)
    if "+" in text and not os.path.exists(text):
        return "+".join(map(shareable, text.split("+")))
    return os.path.basename(os.path.abspath(text)) if os.path.isabs(text) or os.path.exists(text) else text
