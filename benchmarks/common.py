"""What the scripts share: what they can be asked, their texts, and files of stored rows."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from comp_lib.calibration.texts import load_text
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.walk import batches
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.pruning.settings import LARGE_RATIO, PRESETS, Settings
from comp_lib.utils.files import write_atomically

HERE = Path(__file__).parent
ROOT = HERE.parent
CALIBRATION_SHARE = 0.7  # of a file: the first part calibrates, the rest evaluates


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser that knows --model; it shows the first line of `description`, a script's docstring."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--model", default=INCLUDED_MODEL)
    return parser


def options(description: str) -> argparse.ArgumentParser:
    """The same with the text that calibrates, and how much of it."""
    parser = parser_of(description)
    parser.add_argument("--text", type=Path, help="to split in two; default: the project's own")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    return parser


def settings_of(text: str, **defaults: Any) -> Settings:
    """Settings from the JSON of `--set`. By default a fifth goes of all layers alike, in multiples of 32."""
    changes = {
        "ratio": 0.2,
        "multiple": 32,
        "widths": "uniform",
        "aim": "self",
        **defaults,
        **json.loads(text),
    }
    return Settings(**changes).completed()


@torch.inference_mode()
def dense_pass(model: nn.Module, ids: Tensor) -> float:
    """Seconds of a forward pass over `ids` (S, L), logits included, after a first touch reads the weights."""
    model(input_ids=ids[:1], use_cache=False)
    started = time.perf_counter()
    for rows in batches(*ids.shape):
        model(input_ids=ids[rows], use_cache=False)
    return time.perf_counter() - started


def texts(file: Path | None) -> tuple[str | Path, dict[str, str]]:
    """The text that calibrates, by name or path, and the texts that judge, by their names.

    The first CALIBRATION_SHARE of a `file` calibrates, from a file in build/, and the rest judges too.
    """
    evaluations = {"evaluation": load_text("evaluation")}
    if file is None:
        return "calibration", evaluations
    text = load_text(file)
    cut = int(len(text) * CALIBRATION_SHARE)
    source = Path("build") / "calibration-part.txt"
    source.parent.mkdir(exist_ok=True)
    source.write_text(text[:cut], encoding="utf-8")
    return source, {**evaluations, f"{file.name}, other part": text[cut:]}


def evaluation_windows(tokenizer: Any) -> Any:
    """12 x 512 tokens of data/evaluation.txt (S, L)."""
    return evaluation_tokens(tokenizer, load_text("evaluation"), window_length=512, window_count=12)


def read_json(file: Path, default: Any = None) -> Any:
    """What is stored in `file`, or `default` (None: no rows) if there is no file."""
    if file.exists():
        return json.loads(file.read_text("utf-8"))
    return [] if default is None else default


def write_json(file: Path, content: Any) -> None:
    write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())


def keep_row(file: Path, row: dict[str, Any], measured: Collection[str]) -> None:
    """Writes `row` into `file`, in place of an older row that differs only in the `measured` fields."""

    def request(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in measured}

    older_rows = [old for old in read_json(file) if request(old) != request(row)]
    write_json(file, [*older_rows, row])


def preset(settings: dict) -> str:
    """The preset that a row follows, perhaps with another target; of a baseline "" or "our refit"."""
    if settings["method"] != "comp":
        return "our refit" if settings["recovery"] == "least-squares" else ""
    aim = settings.get("aim") or settings.get("target") or "self"
    if aim == "auto":
        aim = "dense" if settings["ratio"] > LARGE_RATIO else "self"
    settings = settings | {"aim": aim}
    presets = presets_at(settings["ratio"])
    matching = [name for name, values in presets.items() if values.items() <= settings.items()]
    if matching:
        return max(matching, key=lambda name: len(presets[name]))
    same_widths = [name for name, values in presets.items() if values.get("widths") == settings["widths"]]
    label = f"{same_widths[0]}, target {aim}"
    if settings["ridge"] != "auto":
        label += f", ridge {settings['ridge']}"
    return label


def presets_at(ratio: float) -> dict[str, dict[str, Any]]:
    """The settings of each preset if `ratio` of the decoder goes, and of kinds.py's `spared`."""
    spared = PRESETS["stock"] | {"widths": "spared"}
    presets = {}
    for name, values in (PRESETS | {"spared": spared}).items():
        presets[name] = {"ridge": "auto"} | values
        if values.get("aim") == "auto":
            presets[name]["aim"] = "dense" if ratio > LARGE_RATIO else "self"
    return presets


def decoder_parameters(model: nn.Module) -> int:
    """Counted from the tensors, whatever a method, ours or another package's, made of the layers."""
    return sum(parameter.numel() for parameter in model.model.layers.parameters())


def between(page: str, start: str, end: str, text: str) -> str:
    """`page` with `text` between the marks `start` and `end`."""
    before, rest = page.split(start)
    after = rest.split(end)[1]
    return f"{before}{start}\n{text}\n{end}{after}"


def markdown(head: Collection[str], rows: Collection[Collection[str]]) -> str:
    """A table of Markdown: the first column holds words, the rest numbers."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)
