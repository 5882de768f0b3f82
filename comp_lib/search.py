"""How many whole layers should go beside the neurons? A few candidates are tried, and the model itself is asked.

Each candidate drops some layers, those of least importance, and narrows the others to meet the same ratio. It is
carried out on a part of the calibration text, and judged on another part, by how far its answers are from the dense
model's:

    mean_t KL(p_t || q_t)      nats per token

The candidate without more layers gone than widths need is always among them, so that by its judges a search is never
worse than no search. Few layers and narrowing win where much has to go (benchmarks/RESULTS.md). (Our derivation.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from .baselines import PLANNERS
from .errors import InputError
from .evaluation.loss import compare
from .families.protocol import Model
from .hybrid_granularity.uniform import layers_needed
from .plan import Plan
from .prune import Planned, make_plan, prune
from .report import Progress, no_progress
from .settings import Settings
from .shape import Shape

FITTED_TOKENS = 8192  # that a candidate is fitted to, at most
JUDGED = 8  # sequences that judge it, at most


@dataclass(frozen=True)
class Trial:
    """A candidate, and how far its answers are from the dense model's."""

    plan: Plan
    divergence: float  # nats per token, on sequences that it was not fitted to


def layer_counts(shape: Shape, settings: Settings, trials: int) -> tuple[int, ...]:
    """Numbers of layers to try, evenly spread, ascending: from the fewest that the ratio needs to all of the ratio."""
    least = layers_needed(settings.request(shape))
    room = shape.layers - 1 - settings.attentions  # some layer stays, and those that lose their attention do
    most = max(least, min(room, round(settings.ratio * shape.layers)))
    return tuple(least + index for index in spread(most - least + 1, trials))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 to count - 1, evenly spread, the first and the last among them.

    >>> spread(8, 4)
    [0, 2, 5, 7]
    """
    steps = min(count, most)
    return [round(step * (count - 1) / max(steps - 1, 1)) for step in range(steps)]


def trial_text(ids: Tensor, tokens: int, judged: int) -> tuple[Tensor, Tensor]:
    """Of ids (S, L), what trials are fitted to, at most so many tokens, and what judges them, at most a quarter of it.

    A trial is to choose, not to be good. Raises InputError for fewer than 2 sequences.
    """
    check_trials(len(ids))
    judges = max(1, min(judged, len(ids) // 4))
    return ids[: min(len(ids) - judges, max(2, tokens // ids.shape[1]))], ids[-judges:]


def check_trials(sequences: int, widths: str = "uniform") -> None:
    """Raises InputError unless so many calibration sequences can fit trials and judge them."""
    least = 3 if widths == "measured" else 2  # these have a fit, and a judge, of their own
    if sequences < least:
        words = f"at least {least} calibration sequences, to fit and to judge"
        raise InputError(f"expected {words}, got {sequences}: give more")


def searched_plan(
    model: Model, ids: Tensor, settings: Settings, trials: int, name: str = "", progress: Progress = no_progress
) -> tuple[Planned, list[Trial]]:
    """The best of at most `trials` plans for the ratio of `settings`, made on all of ids (S, L), and what was tried.

    Time: for each trial the plan and a run on FITTED_TOKENS, and the judging sequences through two models.
    Raises InputError as `check_search`, and for too little text.
    """
    check_search(settings, trials)
    fitted, judged = trial_text(ids, FITTED_TOKENS, JUDGED)
    tried = list[Trial]()
    counts = layer_counts(Shape.of(model), settings, trials)
    for done, count in enumerate(counts):
        progress("trials", done, len(counts))
        planned = make_plan(model, fitted, replace(settings, layers=count), name)
        small = prune(model, fitted, settings, plan=planned, name=name).model
        kls = compare(small, model, judged).kls
        tried.append(Trial(planned.plan, sum(kls) / len(kls)))
        progress("trials", done + 1, len(counts))
    best = min(range(len(tried)), key=lambda place: tried[place].divergence)
    return make_plan(model, ids, replace(settings, layers=counts[best]), name, progress), tried


def check_search(settings: Settings, trials: int) -> None:
    """Raises InputError: no trial, a method that plans by itself, a number of layers that is given already."""
    if settings.method in PLANNERS or settings.layers != "auto" or settings.of != "decoder":
        got = f"the method {settings.method}, layers {settings.layers}, of the {settings.of}"
        wanted = "a method that leaves the plan to others, layers auto, and a ratio of the decoder, for a search"
        raise InputError(f"expected {wanted}, got {got}: leave out the one or the other")
    if trials < 1:
        raise InputError(f"expected at least 1 trial, got {trials}: 4 are a good start")
