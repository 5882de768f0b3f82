"""Whether a folder can take a new model: there is room, and nothing of the user's is lost."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..utils.errors import InputError
from ..utils.files import check_room, resolve
from .own_texts import CARD_FILE, TEMPLATE_FOLDER, edited_texts

PLAN_FILE = "comp_plan.json"
# the names of all files that comp_lib, transformers or the Hub put into a model's folder: anything else is
# somebody's own
MODEL_FILE = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|comp_plan\.json|modeling_comp_\w+\.py"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.model|merges\.txt|chat_template\.jinja|additional_chat_templates/[^/]+\.jinja|README\.md"
)
SMALL_FILES_BYTES = 16 << 20  # a generous size of all files without weights; most of it is the tokenizer


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
    shown_name = repr(str(folder))
    existing = next(path for path in (*target.parents, target) if path.exists())  # "/" exists
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not writable or target.is_file() or target.is_mount():
        raise InputError(
            expected="a folder that can be written to", got=shown_name, hint="choose another place"
        )
    if target.suffix == ".gguf":
        raise InputError(
            expected="the name of a folder", got=shown_name, hint="export_gguf makes a .gguf file of a folder"
        )
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
                got=shown_name,
                hint="choose another place",
            )


def _check_replaceable(folder: str | Path, target: Path, overwrite: bool) -> None:
    """Check that all that is in `target`, which the caller calls `folder`, is a pruned model to be replaced.

    Raises InputError where it is something else, or is to stay.
    """
    if not overwrite:
        raise InputError(
            expected="a new or an empty folder",
            got=f"{str(folder)!r} with files in it",
            hint="choose another name, or set overwrite (--overwrite)",
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
            got=f"{str(folder)!r} with {examples} in it",
            hint=hint,
        )


def _foreign_names(folder: Path) -> list[str]:
    """The names of all in `folder` that no model has, and of all but ordinary files."""
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
