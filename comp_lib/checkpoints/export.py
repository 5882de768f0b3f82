"""From the name of a model to a GGUF file (see `checkpoints.gguf.write`)."""

from __future__ import annotations

from pathlib import Path

from ..utils.arguments import check_switch, check_type
from ..utils.errors import InputError
from ..utils.files import resolve
from ..utils.progress import Progress, check_progress, no_progress
from .gguf.write import GgufType, checked_new_gguf_file, write_gguf
from .load import open_model


def export_gguf(
    name: str | Path,
    out: str | Path,
    gguf_type: GgufType = "f16",
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Write a model as the GGUF file `out`, and return its path.

    The file appears complete or not at all.

    Args:
        name: as for `load_model`: a folder, a .gguf file or "smollm2-135m".
        gguf_type: the type of the matrices, one of `gguf.write.TYPES`. Vectors stay f32. With a 4-bit type
            the embeddings and the head become q8_0, as in most files of that type.
        overwrite: whether a file that is there may be replaced.
        progress: called after each tensor.

    Raises InputError, before anything is written, for arguments of a wrong type, for what llama.cpp or the
    type cannot hold, for a file that is there already, unless `overwrite`, and for a folder or disk that
    cannot take it. Only weights that are not finite, or too large for the type, are refused later.
    """
    check_type("name", name, "the name or the folder of a model", example="build/small")
    check_type("out", out, "the name of a file", example="small.gguf")
    check_switch("overwrite", overwrite)
    check_progress(progress)
    if resolve(out) == resolve(name):
        raise InputError(expected="a file apart from the model", got=out, hint="choose another name")
    target = checked_new_gguf_file(out, gguf_type, overwrite)
    meta_model, files, tokenizer = open_model(name)
    write_gguf(target, meta_model, files, tokenizer, gguf_type, progress)
    return Path(out).expanduser()
