"""`comp-lib report`: a check-up of a model as one page, and the notebook behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from .console import ProgressBars, check_extra, err, listed, out
from .options import Dtype, Model, Overwrite, Seed, Solving


def report(
    model: Model,
    page_file: Annotated[Path, Option("--out", help="File (.html) for the page; the notebook lies beside it.")],
    against: Annotated[str | None, Option(help="Another checkpoint to compare with, such as the parent.")] = None,
    ratios: Annotated[str, Option(help="Parts of the decoder that may go, with commas.")] = "0.1,0.2,0.3",
    baseline: Annotated[str, Option(help="A method to compare with, or none.")] = "wanda-sp",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Solving = "cpu",
) -> None:
    """Check-up of MODEL as a page to read: redundancy, what can go, what it costs. Needs the extra report."""
    check_extra("papermill", "report")
    from ..analysis.parameters import Parameters
    from ..analysis.report_page import check_models, execute, page
    from ..system.atomic import write_atomically
    from ..system.outputs import check_output

    values = {"seed": seed, "dtype": dtype, "device": device, "model": model, "against": against or ""}
    values |= {"ratios": listed(ratios, float, "ratios"), "peer": "" if baseline == "none" else baseline}
    parameters = Parameters.of(values)
    target, notebook = (check_output(file, overwrite) for file in (page_file, page_file.with_suffix(".ipynb")))
    check_models(parameters)
    with ProgressBars() as bars:
        done = execute(values, bars)
    import nbformat

    write_atomically(notebook, nbformat.writes(done.notebook).encode())
    write_atomically(target, page(done, notebook.name).encode())
    out.print(f"page:     {page_file}\nnotebook: {page_file.with_suffix('.ipynb')}", soft_wrap=True)
    if done.failure is not None:
        words = f"it stopped at {done.failure.step!r}: {done.failure.message}; the page goes up to there"
        err.print(f"comp-lib: {words}", style="red", soft_wrap=True, highlight=False)
        raise Exit(1)
