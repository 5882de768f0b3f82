"""What a pruned model loses on every kind of text: prose, encyclopedia, code, dialogue, reference, questions and more.

    python benchmarks/kinds.py --calibration general --sequences 128 --set '{"method": "flap"}' --text FILE
    python benchmarks/kinds.py --figure build/kinds.png
    python benchmarks/kinds.py --ratios build/ratios.png

The calibration is a mixture of this project's kinds ("all", "prose+code", "code" ...), or a text, or "self". The
evaluation texts of all kinds judge, and FILE on top where there is one, of which nothing calibrates. Each call prints
its row, losses above the dense model's with their 95% intervals, and keeps it in benchmarks/kinds.json; with --tasks
also what the pruned model answers in the four offline tasks. The other two draw what is kept, of runs calibrated on a
mixture that ships: each kind for the embedded model, and the mean of both models by how much goes.
"""

from __future__ import annotations

import json
import sys
from itertools import chain
from math import nan
from pathlib import Path

from common import keep_row, options, settings_of, widths
from matplotlib.ticker import PercentFormatter
from readme import SECOND, by_method, usual_rows
from zero_shot import answers

from comp_lib.calibration.text import KINDS, load_text
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.compare.one_run import decoder_parameters
from comp_lib.evaluation.by_kind import judge, kind_windows
from comp_lib.evaluation.confidence import UNKNOWN
from comp_lib.evaluation.loss import evaluation_tokens
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.plots.base import ABOVE, COLOURS, figure_with_axes, panels, png
from comp_lib.prune import prune
from comp_lib.system.files import write_atomically

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("removed", "increases", "mean", "kl", "tasks")


def mixture(words: str) -> str:
    """The calibration source that "all" or "prose+code" stand for."""
    parts = KINDS if words == "all" else words.split("+")
    return "+".join(f"calibration:{part}" if part in KINDS else part for part in parts)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--calibration", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=6, help="of 512 tokens, of each kind")
    parser.add_argument("--set", default="{}", help="more Settings as JSON")
    parser.add_argument("--tasks", action="store_true", help="score the four offline tasks too")
    parser.add_argument("--figure", type=Path, help="nothing is measured: draw what is kept")
    parser.add_argument("--ratios", type=Path, help="nothing is measured: draw both models by how much goes")
    arguments = parser.parse_args()
    if arguments.figure is not None:
        return figure(arguments.figure)
    if arguments.ratios is not None:
        return figure_of_ratios(arguments.ratios)
    settings = settings_of(arguments.set, seed=arguments.seed)
    dense, tokenizer = load_model(arguments.model)
    ids = calibration_tokens(
        mixture(arguments.calibration),
        tokenizer,
        model=dense,
        sequences=arguments.sequences,
        length=arguments.length,
        seed=arguments.seed,
    )
    others = {} if arguments.text is None else {arguments.text.name: load_text(arguments.text)}
    windows = kind_windows(tokenizer, sequences=arguments.windows)
    texts = {name: evaluation_tokens(tokenizer, text, sequences=arguments.windows) for name, text in others.items()}
    before = decoder_parameters(dense)
    small = prune(dense, ids, settings).model
    judged = judge(small, windows, dense)
    every = {**judged.kinds, **judge(small, texts, dense).kinds}
    # of too few windows there is no interval: NaN, which a figure leaves out
    increases = {kind: [one.increase, *(one.intervals()["increase"] or UNKNOWN)] for kind, one in every.items()}
    for kind, (increase, low, high) in increases.items():
        print(f"{kind:16}{increase:.3f} nats more ({low:.3f} to {high:.3f})", flush=True)
    mean, (low, high) = judged.mean["increase"], judged.intervals()["increase"] or UNKNOWN
    print(f"mean over kinds {mean:.3f} ({low:.3f} to {high:.3f})")
    row = {
        "model": arguments.model,
        "calibration": arguments.calibration,
        "sequences": arguments.sequences,
        "length": arguments.length,
        "windows": arguments.windows,
        "seed": arguments.seed,
        "settings": json.loads(json.dumps(vars(settings))),
        "removed": 1 - decoder_parameters(small) / before,
        "increases": increases,
        "mean": mean,
        "kl": {kind: one.kl for kind, one in every.items()},
    }
    if arguments.tasks:
        row["tasks"] = answers(small, tokenizer)
        print(json.dumps(row["tasks"]))
    keep_row(FILE, row, MEASURED)


def named(method: str, kind: str) -> str:
    """A method as the figures call it."""
    words, *preset = kind.split(", preset ")
    return (
        f"comp, preset {preset[0]}" if preset else f"comp, {words.split(',')[0]} widths" if method == "comp" else method
    )


def figure(path: Path) -> None:
    """Extra loss by kind of text, a colour for each method, with 95% intervals; of several seeds the first.

    Of COMP the presets `best` (with the text of the others), `stock` and `paper`.
    """
    drawn = ("dense target", "preset paper")
    found = {name: rows for name, rows in by_method().items() if name[0] != "comp" or name[1].endswith(drawn)}
    names = list(next(iter(found.values()))[0]["increases"])
    picture, axes = figure_with_axes(
        (8.6, 0.5 * len(names) + 1.4), xlabel="loss above the dense model (nats per token)"
    )
    for number, ((method, kind), (row, *_)) in enumerate(found.items()):
        label = named(method, kind)
        middle, low, high = zip(*(row["increases"][name] for name in names), strict=True)
        spans = [[m - b for m, b in zip(middle, low, strict=True)], [t - m for m, t in zip(middle, high, strict=True)]]
        places = [place + min(0.18, 0.8 / len(found)) * (number - (len(found) - 1) / 2) for place in range(len(names))]
        axes.errorbar(middle, places, xerr=spans, fmt="o", capsize=3, label=label, color=COLOURS[number])
    axes.set_yticks(range(len(names)), [name.removesuffix(".txt") for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, None))
    axes.legend(ncols=-(-len(found) // 2), **ABOVE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(picture))


def figure_of_ratios(path: Path) -> None:
    """Mean extra loss over the kinds against what is gone, a panel for each model and a line for each method."""
    models = (EMBEDDED, SECOND)
    labels = {"xlabel": "of the decoder gone", "ylabel": ["mean loss above the dense model\n(nats per token)", ""]}
    picture, both = panels(1, 2, (9.0, 3.6), **labels)
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in chain(*map(usual_rows, models)):
        if row["seed"] == 0:
            method, kind = row["settings"]["method"], widths(row["settings"])
            own = ", own output as target" * (method == "comp" and kind in ("uniform", "measured"))
            found = lines.setdefault(named(method, kind) + own, {})
            found.setdefault(row["model"], []).append((row["removed"], row["mean"]))
    for axes, model in zip(both, models, strict=True):
        for number, name in enumerate(sorted(name for name in lines if max(map(len, lines[name].values())) > 1)):
            places, means = zip(*sorted(lines[name].get(model, [(nan, nan)])), strict=True)
            axes.plot(places, means, "o-", label=name, color=COLOURS[number])
        axes.set_title(model)
        axes.set(ylim=(0, None))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    picture.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(picture))


if __name__ == "__main__":
    sys.exit(main())
