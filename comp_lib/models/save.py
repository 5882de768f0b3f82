"""Checkpoint: a folder on disk that says what it is, and that is never half written.

The folder holds `config.json`, the weights as safetensors, the tokenizer, `generation_config.json`, a model card
(`README.md`) and the plan (`comp_plan.json`). Weights up to 5 GB are one `model.safetensors`, more are shards of that
size and an index. With stock widths it is a plain folder of the parent's family, which any runtime loads; with widths
that differ from layer to layer it needs `import comp_lib.models.per_layer_llama` first, and the card says so. Nothing
in it tells of the machine that made it, and the same input gives the same bytes.

Writing is atomic (see `atomic`): whenever the process dies, the folder is the old one, the new one, or absent. What a
model's folder does not have (`foreign_files`: notes, checkpoints, a repository) is never deleted: it is refused.
`check_destination` and `save_checkpoint` clean up after a process that died.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..families.protocol import Model
from ..plan import Plan
from ..shape import Shape, span
from ..system.atomic import check_room, resolved, same, staged
from ..system.tensor_files import LARGEST
from .door import TEMPLATES
from .per_layer_llama import as_heterogeneous, as_stock, check_widths
from .reading import quiet
from .wheels import WHEELS

CARD_FILE, PLAN_FILE = "README.md", "comp_plan.json"
# All that a model's folder has, from us, transformers or the Hub; whatever else lies in one is somebody's.
KNOWN = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|comp_plan)\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.model|merges\.txt|chat_template\.jinja|README\.md"
)
SMALL_FILES = 16 << 20  # bytes, generously, of all that is not weights: mostly the tokenizer
USABLE = os.R_OK | os.W_OK | os.X_OK
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

    Raises InputError for what `check_destination` and `check_widths` refuse, before anything is written.
    """
    shape = Shape.of(model)
    check_widths(model.config, shape)
    check_destination(folder, overwrite, estimated_bytes(shape, model.dtype), [model.config.name_or_path or ""])
    target = resolved(folder)
    described = as_stock(model, shape) if shape.stock else as_heterogeneous(model, shape)
    with staged(target) as partial:
        with quiet():
            described.save_pretrained(partial, max_shard_size=LARGEST)
        save_metadata(partial, target.name, tokenizer, shape, plan, card)
    return Path(folder).expanduser()


def save_metadata(
    folder: Path, name: str, tokenizer: PreTrainedTokenizerBase, shape: Shape, plan: Plan, card: Provenance
) -> None:
    """All that belongs to the checkpoint `name` beside its weights and its config."""
    tokenizer.save_pretrained(folder)
    replace(plan, parent=shareable(plan.parent)).save(folder / PLAN_FILE)
    (folder / CARD_FILE).write_text(model_card(name, shape, plan, card), encoding="utf-8")


def estimated_bytes(shape: Shape, dtype: torch.dtype | str) -> int:
    """Bytes that a checkpoint of this shape takes on disk, rounded up generously."""
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return shape.total * dtype.itemsize + SMALL_FILES


def check_destination(
    folder: str | Path, overwrite: bool = False, needed_bytes: int = 0, sources: Iterable[str | Path] = ()
) -> None:
    """Raises InputError unless `folder` can be written, so that no hour of work ends in a refusal.

    sources: models that are read, as the user named them or where they are: their own files are never overwritten. The
    only thing that this function may change on disk is what an interrupted save left there.
    """
    target = resolved(folder)
    above = next(path for path in (*target.parents, target) if os.path.exists(path))  # "/", at last, does
    if not above.is_dir() or not os.access(above, USABLE):
        raise InputError(f"expected a folder that can be written to, got {above}: choose another place for {folder}")
    names = [str(source) for source in sources if str(source) not in ("", *WHEELS)]  # a Hub id need not exist here
    origins = [path for path in map(resolved, names) if os.path.exists(path)]
    origins += [resolved(file) for one in origins for file in one.glob("*.safetensors")]  # which may be links
    if os.path.exists(target) and not target.is_dir():
        raise InputError(f"expected a new folder, got the file {folder}: choose another name")
    if any(_within(one, target) or _within(target, one) for one in origins):
        raise InputError(f"expected a folder apart from the model that is read, got {folder}: choose another place")
    if _within(_here(), target):
        raise InputError(f"expected a folder apart from the one you are in, got {folder}: name a new folder inside it")
    if os.path.ismount(target) or (os.path.exists(target) and not os.access(target, USABLE)):
        raise InputError(f"expected a folder that can be replaced, got {folder}: choose a new folder inside it")
    if os.path.exists(target) and any(target.iterdir()):
        if not overwrite:
            got = f"{folder} with files in it: choose another name or say --overwrite"
            raise InputError(f"expected a new or an empty folder, got {got}")
        if not (target / "config.json").is_file() or not any(target.glob("*.safetensors")):
            got = f"{folder}, which does not look like one: delete it yourself or choose another name"
            raise InputError(f"expected a checkpoint to overwrite (config.json, *.safetensors), got {got}")
        if names := foreign_files(target):
            got = f"{folder} with {', '.join(names[:3])}{', ...' * (len(names) > 3)} in it"
            todo = "move that away or choose another name"
            raise InputError(f"expected a checkpoint to overwrite and nothing beside it, got {got}: {todo}")
    check_room(above, needed_bytes, folder)


def _here() -> Path:
    """The folder in which the process stands; one that is gone is in no other."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def _within(path: Path, folder: Path) -> bool:
    """Whether `path` is that folder, or in it, under whatever name."""
    return folder.exists() and any(same(one, folder) for one in (path, *path.parents))


def foreign_files(folder: Path) -> list[str]:
    """Names of what lies in `folder` and belongs to no model: not ours to delete."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if not (_templates(path) if path.is_dir() else KNOWN.fullmatch(path.name))
    )


def _templates(folder: Path) -> bool:
    """Whether it is where transformers keeps the chat templates of a tokenizer that has several."""
    return folder.name == TEMPLATES and all(path.is_file() and path.suffix == ".jinja" for path in folder.iterdir())


def model_card(name: str, shape: Shape, plan: Plan, card: Provenance) -> str:
    """The README.md of a model called `name`: YAML front matter, then Markdown."""
    parent, folder = shareable(card.parent), json.dumps(name)
    method = COMP if "condition" in card.method else _plain(card.method)
    before, after = _counts(card.parent_shape), _counts(shape)
    removed = [(what, before[what], after[what]) for what in before]
    made = {"neurons chosen by": card.method, "re-tuned by": card.recovery, "calibrated on": card.calibration}
    measured = [(text, f"{tokens:,}", f"{p:.2f}", f"{q:.2f}") for text, tokens, p, q in card.perplexities]
    licence = f"`{_plain(card.parent_licence)}`" if card.parent_licence else "not known to the tool: ask its makers"
    # JSON is YAML, and quotes what needs quoting
    return f"""\
---
license: {json.dumps(card.parent_licence or "unknown")}
base_model: {json.dumps(parent)}
library_name: "transformers"
pipeline_tag: "text-generation"
tags: ["comp-lib", "structured-pruning", "pruned"]
---

# {_plain(name)}

A smaller copy of {_plain(parent)}: {plan.removed:.1%} of the parameters of its decoder were removed by structured \
pruning ({method}), with comp_lib {card.version}.

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
        "MLP neurons per layer": span(shape.neurons),
        "query heads per layer": span(heads),
        "KV heads per layer": span(shape.kv_groups),
        "parameters of the decoder": f"{shape.decoder:,}",
        "parameters of the model": f"{shape.total:,}",
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    cells = [head, ("---",) * len(head), *([_plain(shareable(cell)).replace("|", "/") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _plain(name: str) -> str:
    """A name on one line, in which nothing is HTML or a link.

    >>> _plain("a <b>[model](x)")
    'a &lt;b&gt;\\\\[model\\\\](x)'
    """
    text = html.escape(" ".join(name.split()), quote=False)
    return text.replace("[", "\\[").replace("]", "\\]")


def shareable(value: object) -> str:
    """`value` as text; of a path, only its last part: folder names of this machine are nobody's business.

    >>> shareable("/models/tiny")
    'tiny'
    """
    text = str(value)
    return os.path.basename(os.path.abspath(text)) if os.path.isabs(text) or os.path.exists(text) else text
