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

from comp_lib.calibration.stream import batches
from comp_lib.calibration.text import load_text
from comp_lib.evaluation.loss import evaluation_tokens
from comp_lib.models.load import EMBEDDED
from comp_lib.settings import MUCH, PRESETS, Settings, default_recovery
from comp_lib.system.files import write_atomically

HERE = Path(__file__).parent
ROOT = HERE.parent
CALIBRATION_SHARE = 0.7  # of a file: the first part calibrates, the rest evaluates


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser that knows --model; description: the script's docstring, of which the first line is shown."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--model", default=EMBEDDED)
    return parser


def options(description: str) -> argparse.ArgumentParser:
    """The same with the text that calibrates, and how much of it."""
    parser = parser_of(description)
    parser.add_argument("--text", type=Path, help="to split in two; default: the project's own")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    return parser


def settings_of(words: str, **more: Any) -> Settings:
    """Of the JSON of `--set`: a fifth goes, in multiples of 32, unless it says something else."""
    changes = {"ratio": 0.2, "multiple": 32, **more, **json.loads(words)}
    return Settings(**{"recovery": default_recovery(changes.get("method", "comp")), **changes})


@torch.inference_mode()
def dense_pass(model: nn.Module, ids: Tensor) -> float:
    """Seconds of one forward pass over `ids` (S, L), logits included, after a first touch that reads the weights."""
    model(input_ids=ids[:1], use_cache=False)
    started = time.perf_counter()
    for rows in batches(*ids.shape):
        model(input_ids=ids[rows], use_cache=False)
    return time.perf_counter() - started


def texts(file: Path | None) -> tuple[str | Path, dict[str, str]]:
    """The text that calibrates, by name or path, and those that judge, by their names.

    Of a `file` the first CALIBRATION_SHARE calibrates, from a file in build/, and the rest judges too.
    """
    evaluations = {"evaluation": load_text("evaluation")}
    if file is None:
        return "calibration", evaluations
    whole = load_text(file)
    cut = int(len(whole) * CALIBRATION_SHARE)
    source = Path("build") / "calibration-part.txt"
    source.parent.mkdir(exist_ok=True)
    source.write_text(whole[:cut], encoding="utf-8")
    return source, {**evaluations, f"{file.name}, other part": whole[cut:]}


def evaluation_windows(tokenizer: Any) -> Any:
    """12 x 512 tokens of data/evaluation.txt (S, L)."""
    return evaluation_tokens(tokenizer, load_text("evaluation"), length=512, sequences=12)


def read_json(file: Path, otherwise: Any = None) -> Any:
    """What is stored in `file`; `otherwise` (default: no rows) where there is none."""
    if file.exists():
        return json.loads(file.read_text("utf-8"))
    return [] if otherwise is None else otherwise


def write_json(file: Path, content: Any) -> None:
    write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())


def keep_row(file: Path, row: dict[str, Any], measured: Collection[str]) -> None:
    """Into `file`, in the place of an older row that differs in nothing but what was `measured`."""

    def asked(one: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in one.items() if name not in measured}

    write_json(file, [*(old for old in read_json(file) if asked(old) != asked(row)), row])


def preset(settings: dict) -> str:
    """The preset that the settings of a row have, or one with another target; of a baseline "" or "our refit"."""
    if settings["method"] != "comp":
        return "our refit" * (settings["recovery"] == "least-squares")
    aim = "dense" if "dense" in (settings.get("aim"), settings.get("target")) else "self"
    settings, auto = settings | {"aim": aim}, "dense" if settings["ratio"] > MUCH else "self"
    usual = {"ridge": "auto"}  # where a preset names none
    named = PRESETS | {
        "spared": PRESETS["stock"] | {"widths": "spared"}
    }  # what kinds.py calls so is as `stock` else
    given = {
        name: usual | each | ({"aim": auto} if each.get("aim") == "auto" else {})
        for name, each in named.items()
    }
    if found := [name for name, each in given.items() if each.items() <= settings.items()]:
        return max(found, key=lambda name: len(given[name]))
    alike = {each.get("widths"): name for name, each in reversed(given.items())}
    return f"{alike[settings['widths']]}, target {aim}" + f", ridge {settings['ridge']}" * (
        settings["ridge"] != "auto"
    )


def decoder_parameters(model: nn.Module) -> int:
    """Counted from the tensors, whatever a method, ours or another package's, made of the layers."""
    return sum(parameter.numel() for parameter in model.model.layers.parameters())


def between(page: str, start: str, end: str, text: str) -> str:
    """`page` with that text between two marks."""
    before, rest = page.split(start)
    return f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"


def markdown(head: Collection[str], rows: Collection[Collection[str]], words: int = 1) -> str:
    """A table of Markdown; the first columns, so many, hold words, the rest numbers."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * words}{'---:|' * (len(head) - words)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
