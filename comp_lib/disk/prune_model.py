"""From the name of a model to a smaller folder, and a verdict on it: all of `comp-lib prune`, to be called from Python.

What comes out is saved as its parent is, in bfloat16 where that is quantised, as nearly all originals are; never in
more bytes than it was computed in.
"""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch
from torch import Tensor

from ..calibration.shares import MIXTURES, WRITTEN, shares_of, text_hashes
from ..calibration.texts import EVERY_KIND
from ..calibration.windows import calibration_tokens, windows_of
from ..errors import InputError, suggestion
from ..families.protocol import Model
from ..families.table import family_of
from ..hybrid_granularity.uniform import RATIO_TOLERANCE
from ..methods import default_recovery
from ..models.load import load_model, open_model
from ..models.save import Provenance, shareable
from ..planning import check_call, check_length, check_request, make_plan, why_more
from ..progress import Progress, no_progress
from ..settings import DEFAULTS, MOST_TOKENS, PER_NEURON, PRESETS, SEQUENCES, Settings
from ..shape import Shape, span
from ..system.atomic import resolved
from ..system.machine import available_device
from ..system.tensors import TensorFiles
from .from_disk import GRADIENTS, Saving, Written, check_out, prune_to
from .model_on_disk import STORED, Streamed

EVALUATED = 12, 512  # windows measured before and after, and tokens in each
EVALUATED_KINDS = 2, 256  # of each kind of text: a first look, which may not take longer than the pruning
NO_FLAG = {
    "widths",
    "recovery",
    "aim",
    "ridge",
    "layer_metric",
    "token_weights",
}  # fields that only Python can set
# of `ratio_within`: ratios, between which it looks, and prunings that it may take
SMALLEST_RATIO, LARGEST_RATIO, TRIES = 0.01, 0.8, 5
SAVED = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16}  # all else: bfloat16


@dataclass(frozen=True, kw_only=True)
class Verdict(Written):
    """A pruned model on disk: how much smaller it is than its parent, and at what price."""

    parent: str
    megabytes: tuple[float, float]  # of the files of weights: the parent's, and the model's
    stored: tuple[str, str]  # what most of their numbers are: "BF16", "Q8_0"
    by_text: dict[
        str, dict[str, float]
    ]  # text -> dense_loss, loss and increase, nats per token; empty: not measured
    seconds: float  # from the first line to the last, or since the last stop
    next: str  # the command that looks closer

    def numbers(self) -> dict[str, Any]:
        """What `comp-lib prune --json` writes."""
        pairs: dict[str, tuple[Any, Any]] = {"parameters": (self.before.total, self.after.total)}
        pairs |= {
            "megabytes": self.megabytes,
            "decoder_parameters": (self.before.decoder, self.after.decoder),
        }
        pairs["stored"] = self.stored
        return {
            "folder": str(self.folder),
            "parent": self.parent,
            "removed": self.plan.removed,
            **{name: dict(zip(("before", "after"), pair, strict=True)) for name, pair in pairs.items()},
            "loss": self.by_text,
            "seconds": self.seconds,
            "calibration_tokens": self.report.tokens,
            "next": self.next,
        }

    def __str__(self) -> str:
        """What `comp-lib prune` says, in at most 12 lines, and one if more went than was asked for."""
        before, after, (old, new) = self.before, self.after, self.stored
        note = new
        if old not in SAVED.keys() | {new}:
            note = f"{old}, {new}; the parent as {new}: {before.total * 2 / 1e6:.1f} MB"
        rows = [
            ("", "before", "after", ""),
            ("parameters", f"{before.total:,}", f"{after.total:,}", ""),
            ("weights", *(f"{size:.1f} MB" for size in self.megabytes), note),
            ("layers", str(before.layers), str(after.layers), ""),
            ("neurons a layer", span(before.neurons), span(after.neurons), ""),
            ("KV groups a layer", span(before.kv_groups), span(after.kv_groups), ""),
        ]
        kinds = []
        if self.by_text:
            *kinds, (name, mean) = self.by_text.items()
            cells = f"{mean['dense_loss']:.3f}", f"{mean['loss']:.3f}", f"{mean['increase']:+.3f}, {name}"
            rows.append(("loss, nats/token", *cells))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        method, tokens = self.report.settings["method"], f"{self.report.tokens:,} tokens"
        lines = [
            f"{self.plan.removed:.1%} of the decoder removed by {method}, in {self.seconds:.0f} s on {tokens}"
        ]
        if self.plan.removed > self.plan.ratio + RATIO_TOLERANCE:
            lines.append(why_more(self.plan, self.report.settings))
        lines += [f"{a:{widths[0]}} {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
        each = ", ".join(f"{kind} {values['increase']:+.3f}" for kind, values in kinds)
        lines += wrap(f"by kind: {each}", 80, subsequent_indent="  ") if kinds else []
        return "\n".join([*lines, f"saved: {self.folder}", f"next: {self.next}"])


def prune_model(
    model: str | Path,
    out: str | Path,
    ratio: float | None = None,
    *,
    preset: str = "stock",
    calibration: str = DEFAULTS["calibration"],
    evaluated: str = EVERY_KIND,
    overwrite: bool = False,
    progress: Progress = no_progress,
    **more: Any,
) -> Verdict:
    """Prune the model of that name, or in that folder, into the folder `out`: what `comp-lib prune` does.

    The same call goes on after a stop, one with `at_most` once its ratio is found. The whole model is in memory only
    while it writes text, or where a method needs gradients.

    Args:
        model: as for `load_model`: "smollm2-135m", a folder, a .gguf file or a Hub id.
        ratio: part of the decoder's parameters to remove, at least. None: 0.2, or what `at_most` allows.
        preset: one of settings.PRESETS; overwrite: whether an earlier result in `out` may be replaced.
        calibration: text that decides, see `calibration.shares`; evaluated: text that judges, or "none".
        more: `at_most`, in place of a ratio: how much the loss may rise, in nats per token (see `ratio_within`);
            `sequences` and `length` of the calibration text, `dtype` to compute in, and fields of `Settings`, which
            win over the preset's. None is the default.

    Raises InputError, before the model writes any text, for whatever cannot be; and for an `at_most` out of reach.
    """
    started = time.perf_counter()
    settings, (sequences, length, dtype), at_most = _told(model, ratio, preset, evaluated, more)
    name, judged, plans = str(model), None if evaluated == "none" else evaluated, settings.method in GRADIENTS
    hashes = text_hashes(calibration)
    whole = plans or at_most is not None or not WRITTEN.keys().isdisjoint(shares_of(calibration))
    meta_model, files, tokenizer = open_model(name, dtype)
    if settings.recovery == "bias" and more.get("recovery") is None and not family_of(meta_model).bias_fields:
        settings = replace(settings, recovery=default_recovery(settings.method, biases=False))
    source, windows = Streamed(meta_model, files), dict[str, Tensor]()
    check_request(source, settings)
    check_length(source, length)
    sequences = (
        _usual_sequences(source.shape, preset, calibration, length) if sequences is None else sequences
    )
    if judged is not None:
        count, longest = EVALUATED_KINDS if judged == EVERY_KIND else EVALUATED
        windows = windows_of(judged, tokenizer, min(longest, source.config.max_position_embeddings), count)
    texts = f"{len(windows)} kinds of text" if len(windows) > 1 else Path(evaluated).name
    stored = _usual_type(files)
    saved = min(SAVED.get(stored, torch.bfloat16), source.dtype, key=lambda one: one.itemsize)
    saving = Saving(name, torch.cat([*windows.values()]) if windows else None, texts, None, overwrite, saved)
    check_out(out, source, saving, sequences * length)
    loaded = (
        load_model(name, dtype, settings.device, 3 if plans else 2 if at_most else 1)[0] if whole else None
    )
    size: dict[str, Any] = {"sequences": sequences, "length": length, "seed": settings.seed}
    ids = calibration_tokens(
        calibration, tokenizer, model=loaded, evaluated=judged, progress=progress, **size
    )
    if loaded is not None and at_most is not None:
        settings = replace(settings, ratio=ratio_within(at_most, loaded, ids, windows, settings, progress))
    settings = replace(
        settings, multiple=settings.request(source.shape).multiple
    )  # the card tells which it is
    told = {
        "ratio": settings.ratio,
        "preset": preset,
        "calibration": calibration,
        "evaluate": evaluated,
        **more,
    }
    saving = replace(saving, card=replace(_card(name, out, source.shape, settings, ids, told), hashes=hashes))
    plan = make_plan(loaded, ids, settings, name, progress) if plans and loaded is not None else None
    del loaded
    done = prune_to(out, source, tokenizer, ids, settings, plan=plan, saving=saving, progress=progress)
    return _verdict(done, name, files, (stored, STORED[str(saved)]), windows, started)


def ratio_within(
    at_most: float,
    model: Model,
    ids: Tensor,
    windows: Mapping[str, Tensor],
    settings: Settings,
    progress: Progress,
) -> float:
    """The largest ratio found with which the loss on `windows` rises by `at_most`, in nats per token, mean over kinds.

    The model is pruned in memory on ids (S, L) with these settings, TRIES times at most. Each ratio is where a parabola
    through the two nearest measured ones has that loss, in the middle half of what lies between them.
    Raises InputError when even the smallest step costs more.
    """
    from ..comp import prune
    from ..evaluation.by_kind import judge

    ids = check_call(model, ids, settings)
    dense, gone = judge(model, windows).mean["loss"], 0.0
    (low, below), (high, above) = (
        (0.0, 0.0),
        (LARGEST_RATIO, math.inf),
    )  # what holds, and its cost; what costs too much
    for done in range(TRIES):
        share = math.sqrt((at_most - below) / (above - below))
        ratio = round(max(SMALLEST_RATIO, low + (high - low) * min(max(share, 0.25), 0.75)), 3)
        if done == TRIES - 1 and not low:
            ratio = SMALLEST_RATIO
        settings, plan, cost = replace(settings, ratio=ratio), None, math.inf
        with suppress(InputError):  # out of reach
            plan = make_plan(model, ids, settings, progress=progress)
        if plan is not None:
            small = prune(model, ids, settings, plan=plan, progress=progress)
            gone, cost = small.plan.removed, judge(small.model, windows).mean["loss"] - dense
            del small  # before the next one is made
        progress(f"ratio {ratio:.3f}: {cost:+.3f} nats", done + 1, TRIES)
        if cost <= at_most:
            low, below = ratio, cost
        else:
            high, above = ratio, cost if math.isfinite(cost) else math.inf
        if high == SMALLEST_RATIO or 0.9 * at_most <= below:
            break
    if not low:
        got = f"{at_most:g}, where {gone:.1%} of the decoder costs {above:.3f} already: allow more"
        raise InputError(
            f"expected --at-most as much loss as the smallest step costs, in nats per token, got {got}"
        )
    return low


def _usual_sequences(shape: Shape, preset: str, calibration: str, length: int) -> int:
    """How many calibrate where nobody says it: of the mixtures, enough for the neurons of the widest layer."""
    usual = SEQUENCES.get(preset, 128)
    if calibration not in MIXTURES:
        return usual
    return -(-min(max(PER_NEURON * max(shape.neurons), usual * length), MOST_TOKENS) // length)


def _usual_type(files: TensorFiles) -> str:
    """What most of the numbers in `files` are stored as."""
    numbers = Counter[str]()
    for tensor, kind in files.stored_types.items():
        numbers[kind] += math.prod(files.shapes[tensor])
    return numbers.most_common(1)[0][0]


def _card(
    name: str, out: str | Path, shape: Shape, settings: Settings, ids: Tensor, told: Mapping[str, Any]
) -> Provenance:
    """What the model card says of a run on ids (S, L) that was `told` this."""
    source = told["calibration"]
    shares = shares_of(source)
    text = f"{ids.shape[0]} x {ids.shape[1]} tokens of {shareable(source)}, drawn with seed {settings.seed}"
    if len(shares) > 1:
        text += f" ({', '.join(f'{shareable(each)} {share:.0%}' for each, share in shares.items())})"
    words = ["comp-lib", "prune", shareable(name), "--out", resolved(out).name]
    for flag, value in told.items():
        if value is not None and flag != "at_most" and (flag, value) != ("layers", "auto"):
            words += [f"--{flag.replace('_', '-')}", shareable(value)]
    command = "" if told.keys() & NO_FLAG else shlex.join(words)
    return Provenance(name, shape, text, asdict(settings), command=command)


def nats(at_most: object) -> float:
    """The number in "0.2" or "0.2nats". Raises InputError unless it is above 0."""
    with suppress(ValueError):
        if 0.0 < (value := float(str(at_most).strip().removesuffix("nats"))) < math.inf:
            return value
    got = f"{at_most!r}: say how much worse it may become"
    raise InputError(f"expected --at-most as a number of nats per token above 0, such as 0.2nats, got {got}")


def _told(
    model: object, ratio: float | None, preset: str, evaluated: str, more: dict[str, Any]
) -> tuple[Settings, tuple[int | None, int, str], float | None]:
    """Settings; sequences or None, length and dtype; at_most. Raises InputError for words that mean nothing."""
    if not isinstance(model, str | Path):
        got = f"{type(model).__name__}: a loaded model is for comp_lib.comp.prune"
        raise InputError(f"expected the name or the folder of a model, got {got}")
    if (preset := str(preset)) not in PRESETS:
        raise InputError(f"expected another preset, got {preset!r}: {suggestion(preset, PRESETS)}")
    own = {"sequences": None} | {name: DEFAULTS[name] for name in ("length", "dtype", "device")}
    known = own.keys() | {"at_most"} | {field.name for field in fields(Settings)} - {"ratio"}
    for word in more.keys() - known:
        raise InputError(f"expected an argument of prune_model, got {word!r}: {suggestion(word, known)}")
    given = own | {name: value for name, value in more.items() if value is not None}
    for word in ("sequences", "length"):
        if (number := given[word]) is not None and (type(number) is not int or number < 1):
            raise InputError(f"expected {word} as a whole number above 0, got {number!r}: write another")
    size = given.pop("sequences"), given.pop("length"), given.pop("dtype")
    given["device"] = str(available_device(given["device"], double=True))
    recovery = {"recovery": default_recovery(given.get("method", "comp"))}
    if (at_most := given.pop("at_most", None)) is not None:
        if ratio is not None:
            raise InputError(
                f"expected --ratio or --at-most, got {ratio} and {at_most}: leave one of them out"
            )
        at_most, ratio = nats(at_most), SMALLEST_RATIO
        if evaluated == "none":
            raise InputError("expected a text that judges with --at-most, got none: leave --evaluate out")
    return Settings(0.2 if ratio is None else ratio, **recovery | PRESETS[preset] | given), size, at_most


def _verdict(
    done: Written,
    parent: str,
    files: TensorFiles,
    stored: tuple[str, str],
    windows: dict[str, Tensor],
    started: float,
) -> Verdict:
    by_text = dict[str, dict[str, float]]()
    if windows:
        before, after = torch.tensor(done.losses, dtype=torch.float64).T  # (windows,) each
        columns = torch.stack([before, after, after - before], 1).split(
            [len(ids) for ids in windows.values()]
        )
        means = [column.mean(0) for column in columns]  # (3,) each
        names = [*windows, f"mean of {len(windows)}"] if len(windows) > 1 else [*windows]
        for name, values in zip(names, [*means, torch.stack(means).mean(0)], strict=False):
            by_text[name] = dict(zip(("dense_loss", "loss", "increase"), values.tolist(), strict=True))
    places = files.files, resolved(done.folder).glob("*.safetensors")
    before_and_after = [sum(path.stat().st_size for path in each) / 1e6 for each in places]
    return Verdict(
        **vars(done),
        parent=parent,
        megabytes=(before_and_after[0], before_and_after[1]),
        stored=stored,
        by_text=by_text,
        seconds=time.perf_counter() - started,
        next=shlex.join(["comp-lib", "evaluate", str(done.folder), "--against", parent]),
    )
