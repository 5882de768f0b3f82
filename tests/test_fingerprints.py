"""The numbers that `prune` makes, to the bit: a change of code that is no change of the method leaves them as they are.

`python tests/test_fingerprints.py` writes tests/fingerprints.json anew; a commit that does so says which step changed
which number, and why. Libraries round in their own ways: on another processor or another torch than those of the file
the sums of the squared weights are compared instead, within 1e-3.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from variants import build, tokens

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.comp import Pruned, prune
from comp_lib.importance.neurons import RIDGE
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.settings import PRESETS, Settings

STORED = Path(__file__).with_name("fingerprints.json")
ALIKE = {"ratio": 0.25, "multiple": 4}
CASES = {  # name: (settings, variant, sequences, length)
    "stock": (Settings(**ALIKE, **PRESETS["stock"]), "gqa", 6, 24),
    "best": (Settings(**ALIKE, **PRESETS["best"]), "gqa", 6, 24),
    "one ridge": (Settings(**ALIKE, ridge=RIDGE), "gqa", 6, 24),
    "paper": (Settings(**ALIKE, **PRESETS["paper"] | {"layers": 0}), "gqa", 6, 24),
    "llm-pruner": (Settings(**ALIKE, method="llm-pruner", recovery="none"), "mha", 6, 24),
    "flap": (Settings(**ALIKE, method="flap", recovery="bias"), "gqa", 6, 24),
    "wanda-sp": (Settings(**ALIKE, method="wanda-sp", recovery="none"), "gqa", 6, 24),
    "shortgpt": (Settings(ratio=0.3, method="shortgpt", recovery="none"), "gqa", 6, 24),
    "few tokens": (Settings(**ALIKE, **PRESETS["stock"]), "gqa", 2, 16),
    "KV groups": (Settings(**ALIKE, **PRESETS["stock"], kv_groups=1), "gqa", 6, 24),
    "one sequence": (Settings(**ALIKE, **PRESETS["stock"]), "gqa", 1, 100),
    "gemma3": (Settings(**ALIKE, **PRESETS["stock"]), "gemma3", 6, 24),
    "phi3": (Settings(**ALIKE, **PRESETS["stock"]), "phi3", 6, 24),
}
# Of the real model test_real.py prunes with `stock`; the others take minutes, and are looked at by hand.
REAL = (
    "stock",
    "best",
    "one ridge",
    "paper",
    "llm-pruner",
    "flap",
    "wanda-sp",
    "shortgpt",
    "KV groups",
    "one sequence",
)
SIZES = {"stock": (8, 64), "one sequence": (1, 1024)}  # of the others: 8 x 128 tokens


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


@contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fingerprint(model) -> dict[str, object]:
    """SHA-256 of all weights by name, and the sum of their squares."""
    digest, squares = hashlib.sha256(), 0.0
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        squares += float(tensor.double().square().sum())
    return {"sha256": digest.hexdigest(), "squares": squares}


def tiny(name: str) -> dict[str, object]:
    settings, variant, sequences, length = CASES[name]
    with one_thread():
        return fingerprint(prune(build(variant), tokens(sequences, length), settings).model)


def real(name: str, model, tokenizer) -> Pruned:
    """The same settings for SmolLM2-135M, of which a fifth goes."""
    settings = replace(CASES[name][0], ratio=0.2, multiple=32)
    settings = replace(settings, layers=0.1) if name == "paper" else settings
    size = dict(zip(("sequences", "length"), SIZES.get(name, (8, 128)), strict=True))
    with one_thread():
        ids = calibration_tokens("calibration", tokenizer, **size, evaluated="evaluation")
        return prune(model, ids, settings, name=EMBEDDED)


def check(name: str, found: dict[str, object]) -> None:
    stored = json.loads(STORED.read_text("utf-8"))
    wanted = stored["cases"][name]
    if stored["machine"] == machine():
        assert found == wanted
    assert found["squares"] == pytest.approx(wanted["squares"], rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_the_weights_of_tiny_models_are_those_of_the_file(name):
    check(name, tiny(name))


def main() -> None:
    """Print what differs from the file, and write it anew where --store is given."""
    cases = {name: tiny(name) for name in CASES}
    if "--tiny" not in sys.argv:
        dense = load_model(EMBEDDED)
        cases |= {f"smollm2 {name}": fingerprint(real(name, *dense).model) for name in REAL}
    old = json.loads(STORED.read_text("utf-8"))["cases"] if STORED.exists() else {}
    for name, found in cases.items():
        print(f"{name}: {'same' if old.get(name) == found else f'was {old.get(name)}, is {found}'}")
    if "--store" in sys.argv:
        STORED.write_text(json.dumps({"machine": machine(), "cases": old | cases}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
