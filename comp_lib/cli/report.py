"""`comp-lib report`: a check-up of a model as one page, and the notebook behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Exit, Option

from ..system.atomic import write_atomically
from ..system.outputs import check_output, starts_with
from .console import ProgressBars, ends_tidily, err, listed, out
from .options import Dtype, Model, Overwrite, Solving, command

Page = Annotated[Path, Option("--out", help="File (.html) for the page; the notebook lies beside it as .ipynb.")]


@dataclass(frozen=True)
class ReportOptions:
    against: Annotated[str | None, Option(help="Another checkpoint to compare with, such as the parent.")] = None
    minutes: Annotated[float, Option(help="What it may take, about: less is looked at in fewer.")] = 10.0
    kinds: Annotated[str | None, Option(help="Kinds of text, with commas (default: all eight).")] = None
    ratios: Annotated[str, Option(help="Parts of the decoder that may go, with commas.")] = "0.1,0.2,0.3"
    peer: Annotated[str, Option(help="A method to compare with, or none.")] = "wanda-sp"
    allowed: Annotated[float, Option(help="Loss that may be lost, nats per token.")] = 0.2
    seed: Annotated[int, Option()] = 0
    overwrite: Overwrite = False
    dtype: Dtype = "float32"
    device: Solving = "cpu"


@command
def report(model: Model, page_file: Page, options: ReportOptions) -> None:
    """Check-up of MODEL as a page to read: redundancy, what can go, what it costs. Needs the extra report."""
    from ..analysis.parameters import Parameters
    from ..analysis.report_page import MARK, check_models, check_packages, execute, our_notebook, page

    check_packages()
    values = _values(model, options)
    parameters = Parameters.of(values)
    target = check_output(page_file, starts_with(MARK.encode()), options.overwrite)
    notebook = check_output(page_file.with_suffix(".ipynb"), our_notebook, options.overwrite)
    check_models(parameters)
    with ends_tidily(), ProgressBars() as bars:
        done = execute(values, bars)
    import nbformat

    write_atomically(notebook, nbformat.writes(done.notebook).encode())
    write_atomically(target, page(done, notebook.name).encode())
    out.print(f"page:     {page_file}\nnotebook: {page_file.with_suffix('.ipynb')}", soft_wrap=True)
    if done.failure is not None:
        words = f"it stopped at {done.failure.step!r}: {done.failure.message}"
        advice = "the page goes up to there; mend the cause and give the same command again, which goes on from there"
        err.print(f"comp-lib: {words}; {advice}", style="red", soft_wrap=True, highlight=False)
        raise Exit(1)


def _values(model: str, options: ReportOptions) -> dict[str, Any]:
    """The parameters of the notebook. Raises InputError for ratios that are no numbers."""
    told = {name: getattr(options, name) for name in ("minutes", "allowed", "seed", "dtype", "device")}
    ratios = listed(options.ratios, float, "ratios")
    peer = "" if options.peer == "none" else options.peer
    told |= {"model": model, "against": options.against or "", "ratios": ratios, "peer": peer}
    if options.kinds is not None:
        told["kinds"] = listed(options.kinds, str, "kinds")
    return told
