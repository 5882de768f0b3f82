"""Stored runs of `benchmarks` that lesson 00 shows: a fifth of the decoder removed, one width for all layers."""

from __future__ import annotations

import json
from pathlib import Path

STORED = Path(__file__).parents[2] / "benchmarks"
METHODS = {"COMP": ("comp", "dense"), "LLM-Pruner": ("llm-pruner", "self"), "FLAP": ("flap", "self")}
RUNS = {  # label, file, model, sequences of calibration text, the text that judges
    "SmolLM2: WikiText, more of it": ("headline", "smollm2-135m", 320, "wikitext2-valid.txt, other part"),
    "SmolLM2: WikiText, other prose": ("headline", "smollm2-135m", 320, "evaluation"),
    "SmolLM2: a mixture, eight kinds": ("kinds", "smollm2-135m", 128, "mean"),
    "Gemma 3: WikiText, more of it": ("headline", "gemma3-270m", 64, "wikitext2-valid.txt, other part"),
    "Gemma 3: WikiText, other prose": ("headline", "gemma3-270m", 64, "evaluation"),
    "Gemma 3: a mixture, eight kinds": ("kinds", "gemma3-270m", 64, "mean"),
    "Qwen2.5-Coder 0.5B: a mixture, eight kinds": ("kinds", "qwen-coder-0.5b", 128, "mean"),
}


def stored_losses() -> dict[str, dict[str, float]]:
    """Loss above the dense model, nats per token, of one run each: label of RUNS -> method -> loss."""
    losses: dict[str, dict[str, float]] = {}
    for label, (file, model, sequences, judge) in RUNS.items():
        rows, losses[label] = json.loads((STORED / f"{file}.json").read_text("utf-8")), {}
        for name, (method, aim) in METHODS.items():
            wanted = {"method": method, "widths": "uniform", "ratio": 0.2}
            [row] = [
                row
                for row in rows
                if (row["model"], row["sequences"], row.get("seed", 0)) == (model, sequences, 0)
                and wanted.items() <= row["settings"].items()
                and (method == "comp") == (row["settings"]["recovery"] == "least-squares")
                and row["settings"].get("aim", row["settings"].get("target")) == aim
            ]
            losses[label][name] = row["mean"] if judge == "mean" else row["increases"][judge]
    return losses


def stored_variants(file: str) -> dict[str, list[float]]:
    """COMP with one part changed: variant -> loss above the dense model, nats per token, of each seed."""
    rows = map(json.loads, (STORED / f"{file}.jsonl").read_text("utf-8").splitlines())
    runs: dict[str, list[float]] = {}
    for row in rows:
        if row["changes"].get("ratio", 0.2) == 0.2:
            runs.setdefault(row["name"], []).append(row["increase"])
    return runs
