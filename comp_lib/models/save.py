"""Checkpoint: a folder on disk that says what it is, and that is never half written.

The folder holds `config.json`, the weights as safetensors, the tokenizer, `generation_config.json`, a model
card (`README.md`) and the plan (`comp_plan.json`). Weights up to 5 GB are one `model.safetensors`, more are
shards of that size and an index. With stock widths it is a plain folder of the parent's family, which any
runtime loads. With widths that differ from layer to layer it brings a file of Python that transformers needs
(see `own_widths`), and the card says so. Nothing in it tells of the machine that made it, and the same input
gives the same bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..errors import InputError
from ..families.table import TYPE_PREFIX
from ..families.types import Model
from ..plan import Plan
from ..shape import Shape, span
from ..system.files import check_room, read_object, resolve, stage
from ..system.tensors import LARGEST_FILE_BYTES
from .load import silence_transformers
from .meta_model import with_true_config
from .modelling_file import file_name
from .own_texts import CARD_FILE, TEMPLATE_FOLDER, edited_texts, write_card
from .wheels import WHEELS

PLAN_FILE = "comp_plan.json"
# the names of all files that comp_lib, transformers or the Hub put into a model's folder: anything else is
# somebody's own
MODEL_FILE = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|comp_plan\.json|modeling_comp_\w+\.py"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.model|merges\.txt|chat_template\.jinja|additional_chat_templates/[^/]+\.jinja|README\.md"
)
CALIBRATED_ON = "calibrated_on: "  # beginning of the line of a card that holds `text_hashes`
SMALL_FILES_BYTES = 16 << 20  # a generous size of all files without weights; most of it is the tokenizer
STOCK_NOTE = "Any runtime that loads the parent loads this folder; nothing else is needed."
OWN_WIDTHS_NOTE = """\
The layers of this folder differ in width, which no stock class builds. So it brings a short file of Python, \
`{file}`. Read it, and let transformers run it:"""
WITH_COMP_LIB_NOTE = """
Where comp-lib is installed, `comp_lib.models.load.load_model` gives both without the flag: it has classes \
of its own, and runs nothing of this folder. `comp-lib export --padded` fills narrower layers up; that \
folder needs neither.
"""
TRUST = ", trust_remote_code=True"


@dataclass(frozen=True)
class Provenance:
    """Where a pruned model comes from: the facts on its card that neither the model nor the plan can tell."""

    parent: str
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


def save_checkpoint(
    out: str | Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    card: Provenance,
    *,
    overwrite: bool = False,
) -> Path:
    """Write `model`, as surgery left it, with all that belongs to it to `out`, and return the folder.

    The model is not changed.

    Raises InputError, before anything is written, for what `check_new_folder` refuses.
    """
    shape = Shape.of(model)
    target = resolve(out)
    check_new_folder(out, overwrite, shape.total_parameters * model.dtype.itemsize)
    result = with_true_config(model)
    with stage(target) as partial:
        write_weights(partial, result)
        save_metadata(partial, target.name, tokenizer, shape, plan, card)
    return Path(out).expanduser()


def write_weights(folder: Path, model: Model) -> None:
    """Write the config and the weights of `model`.

    The files of weights get the permissions of the config: safetensors alone would write them as 0600.
    """
    with silence_transformers():
        model.save_pretrained(folder, max_shard_size=LARGEST_FILE_BYTES)
    for path in folder.glob("*.safetensors"):
        path.chmod((folder / "config.json").stat().st_mode)


def save_metadata(
    folder: Path, name: str, tokenizer: PreTrainedTokenizerBase, shape: Shape, plan: Plan, card: Provenance
) -> None:
    """Write all files of the checkpoint `name` but its weights and its config, which must be there."""
    tokenizer.save_pretrained(folder)
    shared_plan = replace(plan, parent=hide_folders(plan.parent))
    (folder / PLAN_FILE).write_text(shared_plan.to_json(), encoding="utf-8")
    model_type = read_object(folder / "config.json")["model_type"].removeprefix(TYPE_PREFIX)
    write_card(folder, model_card(name, shape, plan, card, model_type))


def check_new_folder(
    folder: str | Path, overwrite: bool = False, needed_bytes: int = 0, *sources: str | Path
) -> None:
    """Check that `folder` can be written, so that no hour of work ends in a refusal.

    Args:
        folder: the folder to write.
        overwrite: whether `folder` may hold a pruned model of ours. Without, it must be new or empty.
        needed_bytes: size of the weights, 0 where they are written already.
        sources: folders of the models that are read. They are refused, and so is the current folder.

    Raises InputError where the folder cannot be written.
    """
    target = resolve(folder)
    existing = next(path for path in (*target.parents, target) if path.exists())  # "/" exists
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not writable or target.is_file() or target.is_mount():
        raise InputError(expected="a folder that can be written to", got=folder, hint="choose another place")
    if needed_bytes:
        check_room(existing, needed_bytes + SMALL_FILES_BYTES, folder)
    if not target.exists():
        return
    if any(target.iterdir()):
        _check_replaceable(folder, target, overwrite)
    for source in (Path.cwd(), *map(resolve, sources)):
        if source.exists() and source.samefile(target):
            raise InputError(
                expected="a folder apart from the models that are read and the one you are in",
                got=folder,
                hint="choose another place",
            )


def _check_replaceable(folder: str | Path, target: Path, overwrite: bool) -> None:
    """Check that all that is in `target`, which the caller calls `folder`, is a pruned model to be replaced.

    Raises InputError where it is something else, or is to stay.
    """
    if not overwrite:
        raise InputError(
            expected="a new or an empty folder",
            got=f"{folder} with files in it",
            hint="choose another name, or set overwrite",
        )
    foreign_names = _foreign_names(target)
    hint = "choose another name"
    if not foreign_names:
        foreign_names = edited_texts(target)
        if CARD_FILE in foreign_names:
            hint += f"; a {CARD_FILE} without its checksums, as of earlier versions, counts as somebody's"
    if foreign_names or not (target / PLAN_FILE).exists():
        examples = ", ".join(foreign_names[:3]) or f"no {PLAN_FILE}"
        raise InputError(
            expected="a pruned model to overwrite, and nothing beside it",
            got=f"{folder} with {examples} in it",
            hint=hint,
        )


def _foreign_names(folder: Path) -> list[str]:
    """The names of all in `folder` that no model has, and of what is no ordinary file."""
    paths = []
    for path in sorted(folder.iterdir()):
        is_template_folder = path.name == TEMPLATE_FOLDER and path.is_dir() and not path.is_symlink()
        paths += sorted(path.iterdir()) if is_template_folder else [path]
    names = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if not MODEL_FILE.fullmatch(name) or path.is_symlink() or not path.is_file():
            names.append(name)
    return names


def model_card(name: str, shape: Shape, plan: Plan, card: Provenance, model_type: str) -> str:
    """The README.md of a model called `name`: YAML front matter (JSON is YAML), then Markdown."""
    wheel = WHEELS.get(card.parent)
    parent = hide_folders(card.parent) if wheel is None else wheel.source
    licence = None if wheel is None else wheel.licence
    settings = ", ".join(f"{setting} {hide_folders(value)}" for setting, value in card.settings.items())
    command = f" Made by\n\n```bash\n{card.command}\n```" if card.command else ""
    note = STOCK_NOTE
    trust = ""
    with_comp_lib = ""
    if not shape.stock:
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
{CALIBRATED_ON}{json.dumps(card.hashes)}
---

# {name}

A smaller copy of {parent}: {plan.removed:.1%} of the parameters of its decoder were removed \
by structured pruning with comp_lib {__version__} ([arXiv 2501.15255](https://arxiv.org/abs/2501.15255)). \
`comp_plan.json` lists the layers, neurons and KV groups that were kept.

{_comparison_table(shape, card)}

Calibrated on {card.calibration}. Settings: {settings or "those of comp_lib"}.{command}

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


def _comparison_table(shape: Shape, card: Provenance) -> str:
    """A table in Markdown: the parent beside this model, whose shape is `shape`."""
    parent = card.parent_shape
    rows: list[tuple[object, object, object]] = [
        ("", "parent", "this model"),
        ("---", "---", "---"),
        ("decoder layers", parent.layers, shape.layers),
        ("MLP neurons per layer", span(parent.neurons), span(shape.neurons)),
        ("KV heads per layer", span(parent.kv_groups), span(shape.kv_groups)),
        ("parameters of the decoder", f"{parent.decoder_parameters:,}", f"{shape.decoder_parameters:,}"),
        ("parameters of the model", f"{parent.total_parameters:,}", f"{shape.total_parameters:,}"),
    ]
    for text, tokens, parent_perplexity, perplexity in card.perplexities:
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


def hide_folders(value: object) -> str:
    """`value` as text, without the folders of a path: their names are nobody's business.

    >>> hide_folders("/models/tiny"), hide_folders("general+/texts/mine.txt")
    ('tiny', 'general+mine.txt')
    """
    text = str(value)
    exists = os.path.exists(text)
    if "+" in text and not exists:
        return "+".join(map(hide_folders, text.split("+")))
    if exists or os.path.isabs(text):
        return os.path.basename(os.path.abspath(text))
    return text
