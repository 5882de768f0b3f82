"""Fingerprints of pruned models: the cases, how one is computed, and the file that it is compared with."""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tools import hash_of_weights
from variants import build, tokens

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.importance.problem import RIDGE
from comp_lib.pruning.comp import prune
from comp_lib.pruning.pruned import Pruned
from comp_lib.pruning.settings import PRESETS, Settings

STORED_FILE = Path(__file__).with_name("fingerprints.json")
A_QUARTER = {"ratio": 0.25, "multiple": 4}
FOUR_FIFTHS = {
    "ratio": 0.8,
    "multiple": 4,
    "drop_layers": 0,
}  # of 320 neurons: nine rounds of 32 in each layer
CASES = {  # name: (settings, variant, sequences, length)
    "stock": (Settings(**A_QUARTER, **PRESETS["stock"]), "gqa", 6, 24),
    "tailored": (Settings(**A_QUARTER, **PRESETS["tailored"]), "gqa", 6, 24),
    "best": (Settings(**A_QUARTER, **PRESETS["best"]), "gqa", 6, 24),
    "one ridge": (Settings(**A_QUARTER, widths="uniform", aim="self", ridge=RIDGE), "gqa", 6, 24),
    "paper": (Settings(**A_QUARTER, **PRESETS["paper"] | {"drop_layers": 0}), "gqa", 6, 24),
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
    "wide tailored": (Settings(**A_QUARTER, **PRESETS["tailored"]), "wide", 16, 48),
    "wide best": (Settings(**A_QUARTER, **PRESETS["best"]), "wide", 16, 48),
    "wide paper": (Settings(**PRESETS["paper"] | FOUR_FIFTHS), "wide", 16, 48),
}
# Cases of the real model. test_real.py runs "stock"; the others take minutes, so a person runs them.
REAL_CASES = (
    "stock",
    "tailored",
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
# (sequences, length) of the real model's text; the other cases have (8, 128)
REAL_SIZES = {"stock": (8, 64), "one sequence": (1, 1024)}


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
    squares = sum(float(tensor.double().square().sum()) for _, tensor in sorted(model.state_dict().items()))
    return {"sha256": hash_of_weights(model), "squares": squares}


def hash_of_kept(plan: Plan) -> str:
    """SHA-256 of the indices of the layers, neurons and KV groups that stay."""
    indices = [plan.layers, plan.kept_neurons, plan.kept_groups]
    return hashlib.sha256(json.dumps(indices).encode()).hexdigest()


@cache
def prune_tiny(name: str) -> Pruned:
    """The tiny model of a case, pruned."""
    settings, variant, sequences, length = CASES[name]
    with one_thread():
        return prune(build(variant), tokens(sequences, length), settings)


def real(name: str, model, tokenizer) -> Pruned:
    """SmolLM2-135M, of which a fifth was removed with the settings of a case."""
    settings = replace(CASES[name][0], ratio=0.2, multiple=32)
    if name == "paper":
        settings = replace(settings, drop_layers=0.1)
    sequences, length = REAL_SIZES.get(name, (8, 128))
    with one_thread():
        ids = calibration_tokens(
            "calibration", tokenizer, sequences=sequences, length=length, judged_on="evaluation"
        )
        return prune(model, ids, settings, model_name=INCLUDED_MODEL)


def read_stored() -> dict:
    """The file: its "machine", the fingerprints of its "cases", and the hashes of what is "kept"."""
    return json.loads(STORED_FILE.read_text("utf-8"))


def check(name: str, pruned: Pruned) -> None:
    """What stays is what the file says; so are the weights, as exactly as this machine allows."""
    stored = read_stored()
    assert hash_of_kept(pruned.plan) == stored["kept"][name]
    expected = stored["cases"][name]
    computed = fingerprint(pruned.model)
    if stored["machine"] == machine():
        assert computed == expected
    assert computed["squares"] == pytest.approx(expected["squares"], rel=1e-3)
