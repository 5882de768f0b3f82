"""What a pruned model loses on every kind of text: prose, encyclopedia, code, dialogue, reference, questions and more.

    python benchmarks/kinds.py --calibration general --sequences 128 --set '{"method": "flap"}' --text FILE
    python benchmarks/kinds.py --figure build/kinds.png
    python benchmarks/kinds.py --ratios build/ratios.png

The calibration is a mixture of this project's kinds ("all", "prose+code", "code" ...), or a text, or "self". The
evaluation texts of all kinds judge, and FILE on top where there is one, of which nothing calibrates. Each call prints
its row, losses above the dense model's with their 95% intervals, and keeps it in benchmarks/kinds.json; with --tasks
also what the pruned model answers in the four offline tasks. The other two draw what is kept, of runs calibrated on a
mixture that ships: README.md's bars for the embedded model, and the mean of both models by how much goes.
"""

from __future__ import annotations

import json
import sys
from itertools import chain
from math import nan
from pathlib import Path
from statistics import fmean

from common import decoder_parameters, keep_row, options, preset, settings_of
from matplotlib.ticker import PercentFormatter
from readme import NAMES, SECOND, by_method, interval, usual_rows
from zero_shot import answers

from comp_lib.calibration.text import KINDS, load_text
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.by_kind import judge, kind_windows
from comp_lib.evaluation.confidence import UNKNOWN
from comp_lib.evaluation.loss import evaluation_tokens
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.plots.base import BLUE, COLOURS, GREY, figure_with_axes, panels, png
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


def figure(path: Path) -> None:
    """A bar for each method of README.md's table: the mean over the kinds at a fifth gone, with its 95% interval."""
    found = by_method()
    bars = [(fmean(row["mean"] for row in found[name]), *interval(found[name])) for name in NAMES]
    (_, _, highest), *others = bars
    least = highest < min(low for _, low, _ in others)
    picture, axes = figure_with_axes((7.0, 2.4), xlabel="loss added (nats per token), mean over eight kinds of text")
    errors = [[mean - low for mean, low, _ in bars], [high - mean for mean, _, high in bars]]
    axes.barh([*NAMES.values()], [bar[0] for bar in bars], xerr=errors, color=[BLUE, GREY, GREY], capsize=4)
    axes.bar_label(axes.containers[-1], [f"{mean:.2f}" for mean, *_ in bars], padding=6)
    reading = "COMP adds the least loss" if least else "no difference found"
    axes.set_title(f"A fifth of {EMBEDDED}'s decoder removed: {reading}", loc="left")
    axes.set(xlim=(0, 1.15 * max(high for *_, high in bars)), ylim=(len(bars) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
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
            found = lines.setdefault(f"{row['settings']['method']} {preset(row['settings'])}".strip(), {})
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
