"""What a pruned model loses on every kind of text: prose, encyclopedia, code, dialogue, reference, questions and more.

    python benchmarks/kinds.py --calibration all --sequences 96 --seed 0 --set '{"method": "flap"}' --text FILE

The calibration is a mixture of this project's kinds ("all", "prose+code", "code" ...), or a text, or "self". The
evaluation texts of all kinds judge, and FILE on top where there is one, of which nothing calibrates. Each call prints
its row, losses above the dense model's with their 95% intervals, and keeps it in benchmarks/kinds.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from headline import keep, options

from comp_lib.calibration.text import KINDS, load_text
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.compare.one_run import decoder_parameters
from comp_lib.evaluation.by_kind import judge, kind_windows
from comp_lib.models.load import load_model
from comp_lib.prune import prune
from comp_lib.settings import Settings, default_recovery

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("removed", "increases", "mean", "kl")


def mixture(words: str) -> str:
    """The calibration source that "all" or "prose+code" stand for."""
    parts = KINDS if words == "all" else words.split("+")
    return "+".join(f"calibration:{part}" if part in KINDS else part for part in parts)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--calibration", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=6, help="of 512 tokens, of each kind")
    parser.add_argument("--set", default="{}", help="more Settings as JSON")
    arguments = parser.parse_args()
    changes = {"ratio": 0.2, "multiple": 32, "seed": arguments.seed, **json.loads(arguments.set)}
    settings = Settings(**{"recovery": default_recovery(changes.get("method", "comp")), **changes})
    dense, tokenizer = load_model(arguments.model)
    ids = calibration_tokens(
        mixture(arguments.calibration),
        tokenizer,
        model=dense,
        sequences=arguments.sequences,
        length=arguments.length,
        seed=arguments.seed,
    )
    before = decoder_parameters(dense)
    small = prune(dense, ids, settings).model
    others = {} if arguments.text is None else {arguments.text.name: load_text(arguments.text)}
    judged = judge(small, kind_windows(tokenizer, sequences=arguments.windows, others=others), dense)
    increases = {kind: [one.increase, *one.intervals()["increase"]] for kind, one in judged.kinds.items()}
    for kind, (increase, low, high) in increases.items():
        print(f"{kind:16}{increase:.3f} nats more ({low:.3f} to {high:.3f})", flush=True)
    mean, (low, high) = judged.mean["increase"], judged.intervals()["increase"]
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
        "kl": {kind: one.kl for kind, one in judged.kinds.items()},
    }
    keep(row, FILE, MEASURED)


if __name__ == "__main__":
    sys.exit(main())
