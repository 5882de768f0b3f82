"""`comp-lib report`: a check-up of a model as one page, and the notebook behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from .console import check_extra, err, listed, out
from .options import Dtype, Model, Seed, Solving


def report(
    model: Model,
    page_file: Annotated[Path, Option("--out", help="File (.html) for the page; the notebook lies beside it.")],
    against: Annotated[str, Option(help="Another checkpoint to compare with, such as the parent.")] = "",
    kinds: Annotated[str | None, Option(help="Kinds of text, with commas (default: all eight).")] = None,
    ratios: Annotated[str, Option(help="Parts of the decoder that may go, with commas.")] = "0.1,0.2,0.3",
    baseline: Annotated[str, Option(help="A method to compare with, or none.")] = "wanda-sp",
    sequences: Annotated[int, Option(min=1, max=100_000, help="Of 128 tokens, of each kind, that are looked at.")] = 4,
    seed: Seed = 0,
    overwrite: Annotated[bool, Option(help="Replace what report wrote, unless somebody changed it since.")] = False,
    dtype: Dtype = "float32",
    device: Solving = "cpu",
) -> None:
    """Check-up of MODEL as a page to read: redundancy, what can go, what it costs. Needs the extra report."""
    check_extra("papermill", "report")
    from ..analysis.page import check_request, check_unchanged, execute, sealed
    from ..calibration.text import KINDS
    from ..errors import InputError
    from ..system.atomic import write_atomically
    from ..system.outputs import check_output

    if page_file.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"expected --out to be an .html file, got {page_file.name!r}: choose another name")
    files = page_file.with_suffix(".ipynb"), page_file
    if overwrite:
        for file in files:
            check_unchanged(file)
    targets = [check_output(file, overwrite) for file in files]
    asked = {"model": model, "against": against, "sequences": sequences, "seed": seed, "dtype": dtype, "device": device}
    asked |= {"ratios": list(listed(ratios, float, "ratios")), "baseline": "" if baseline == "none" else baseline}
    asked["kinds"] = list(KINDS if kinds is None else listed(kinds, str, "kinds"))
    check_request(asked)
    notebook, stopped = execute(asked)
    for target, text in zip(targets, sealed(notebook), strict=True):
        write_atomically(target, text.encode())
    out.print(f"page:     {page_file}\nnotebook: {files[0]}", soft_wrap=True)
    if stopped is not None:
        err.print(f"comp-lib: it stopped at {stopped}; the page goes up to there", style="red", soft_wrap=True)
        raise Exit(1)
