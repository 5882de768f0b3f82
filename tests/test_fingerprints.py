"""The weights that `prune` makes, to the bit: only a change of the method may change them.

`python tests/test_fingerprints.py` writes tests/fingerprints.json anew; a commit that does so says which step
changed which number, and why. Libraries round in their own ways: on another processor or another torch than
those of the file the sums of the squared weights are compared instead, within 1e-3.
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

STORED_FILE = Path(__file__).with_name("fingerprints.json")
A_QUARTER = {"ratio": 0.25, "multiple": 4}
FOUR_FIFTHS = {"ratio": 0.8, "multiple": 4, "layers": 0}  # of 320 neurons: nine rounds of 32 in each layer
CASES = {  # name: (settings, variant, sequences, length)
    "stock": (Settings(**A_QUARTER, **PRESETS["stock"]), "gqa", 6, 24),
    "best": (Settings(**A_QUARTER, **PRESETS["best"]), "gqa", 6, 24),
    "one ridge": (Settings(**A_QUARTER, ridge=RIDGE), "gqa", 6, 24),
    "paper": (Settings(**A_QUARTER, **PRESETS["paper"] | {"layers": 0}), "gqa", 6, 24),
    "llm-pruner": (Settings(**A_QUARTER, method="llm-pruner", recovery="none"), "mha", 6, 24),
    "flap": (Settings(**A_QUARTER, method="flap", recovery="bias"), "gqa", 6, 24),
    "wanda-sp": (Settings(**A_QUARTER, method="wanda-sp", recovery="none"), "gqa", 6, 24),
    "shortgpt": (Settings(ratio=0.3, method="shortgpt", recovery="none"), "gqa", 6, 24),
    "few tokens": (Settings(**A_QUARTER, **PRESETS["stock"]), "gqa", 2, 16),
    "KV groups": (Settings(**A_QUARTER, **PRESETS["stock"], kv_groups=1), "gqa", 6, 24),
    "one sequence": (Settings(**A_QUARTER, **PRESETS["stock"]), "gqa", 1, 100),
    "gemma3": (Settings(**A_QUARTER, **PRESETS["stock"]), "gemma3", 6, 24),
    "phi3": (Settings(**A_QUARTER, **PRESETS["stock"]), "phi3", 6, 24),
    "wide stock": (Settings(**FOUR_FIFTHS, **PRESETS["stock"]), "wide", 16, 48),
    "wide best": (Settings(**A_QUARTER, **PRESETS["best"]), "wide", 16, 48),
    "wide paper": (Settings(**PRESETS["paper"] | FOUR_FIFTHS), "wide", 16, 48),
}
# Cases of the real model. test_real.py runs "stock"; the others take minutes, so a person runs them.
REAL_CASES = (
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
REAL_SIZES = {
    "stock": (8, 64),
    "one sequence": (1, 1024),
}  # (sequences, length); the other cases have (8, 128)


def machine() -> str:
    """Processor, instruction set and torch: what decides how sums are rounded."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        processor = next(names, processor)
    return f"{processor}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


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
    digest = hashlib.sha256()
    squares = 0.0
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        squares += float(tensor.double().square().sum())
    return {"sha256": digest.hexdigest(), "squares": squares}


def tiny(name: str) -> dict[str, object]:
    """The fingerprint of the tiny model of a case, after pruning."""
    settings, variant, sequences, length = CASES[name]
    with one_thread():
        return fingerprint(prune(build(variant), tokens(sequences, length), settings).model)


def real(name: str, model, tokenizer) -> Pruned:
    """SmolLM2-135M, of which a fifth was removed with the settings of a case."""
    settings = replace(CASES[name][0], ratio=0.2, multiple=32)
    if name == "paper":
        settings = replace(settings, layers=0.1)
    sequences, length = REAL_SIZES.get(name, (8, 128))
    with one_thread():
        ids = calibration_tokens(
            "calibration", tokenizer, sequences=sequences, length=length, evaluated="evaluation"
        )
        return prune(model, ids, settings, name=EMBEDDED)


def check(name: str, computed: dict[str, object]) -> None:
    """A fingerprint is that of the file: to the bit on the same machine, elsewhere in the sum of squares."""
    stored = json.loads(STORED_FILE.read_text("utf-8"))
    expected = stored["cases"][name]
    if stored["machine"] == machine():
        assert computed == expected
    assert computed["squares"] == pytest.approx(expected["squares"], rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_the_weights_of_tiny_models_are_those_of_the_file(name):
    check(name, tiny(name))


def main() -> None:
    """Print what differs from the file, and write it anew where --store is given."""
    cases = {name: tiny(name) for name in CASES}
    if "--tiny" not in sys.argv:
        dense = load_model(EMBEDDED)
        cases |= {f"smollm2 {name}": fingerprint(real(name, *dense).model) for name in REAL_CASES}
    old = json.loads(STORED_FILE.read_text("utf-8"))["cases"] if STORED_FILE.exists() else {}
    for name, computed in cases.items():
        if old.get(name) == computed:
            print(f"{name}: same")
        else:
            print(f"{name}: was {old.get(name)}, is {computed}")
    if "--store" in sys.argv:
        STORED_FILE.write_text(
            json.dumps({"machine": machine(), "cases": old | cases}, indent=1) + "\n", "utf-8"
        )


if __name__ == "__main__":
    main()
