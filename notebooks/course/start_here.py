"""Reads the stored runs of `benchmarks` that lesson 00 shows.

In all of them a fifth of the decoder is removed, with one width for all layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STORED = Path(__file__).parents[2] / "benchmarks"
METHODS = {  # name in the lesson -> method, and aim, of the stored settings
    "COMP": ("comp", "dense"),
    "LLM-Pruner": ("llm-pruner", "self"),
    "FLAP": ("flap", "self"),
}
RUNS = {  # label -> file, model, sequences of calibration text, the text that judges
    "SmolLM2: WikiText, more of it": ("headline", "smollm2-135m", 320, "wikitext2-valid.txt, other part"),
    "SmolLM2: WikiText, other prose": ("headline", "smollm2-135m", 320, "evaluation"),
    "SmolLM2: a mixture, eight kinds": ("kinds", "smollm2-135m", 128, "mean"),
    "Gemma 3: WikiText, more of it": ("headline", "gemma3-270m", 64, "wikitext2-valid.txt, other part"),
    "Gemma 3: WikiText, other prose": ("headline", "gemma3-270m", 64, "evaluation"),
    "Gemma 3: a mixture, eight kinds": ("kinds", "gemma3-270m", 64, "mean"),
    "Qwen2.5-Coder 0.5B: a mixture, eight kinds": ("kinds", "qwen-coder-0.5b", 128, "mean"),
}


def stored_losses() -> dict[str, dict[str, float]]:
    """Loss above the dense model, nats per token, of one run each: label of RUNS -> method's name -> loss."""
    losses: dict[str, dict[str, float]] = {}
    for label, (file, model, sequences, judge) in RUNS.items():
        stored_rows = json.loads((STORED / f"{file}.json").read_text("utf-8"))
        rows = [row for row in stored_rows if (row["model"], row["sequences"]) == (model, sequences)]
        losses[label] = {}
        for name, (method, aim) in METHODS.items():
            [row] = [row for row in rows if _is_run_of(row, method, aim)]
            losses[label][name] = row["mean"] if judge == "mean" else row["increases"][judge]
    return losses


def _is_run_of(row: dict[str, Any], method: str, aim: str) -> bool:
    """Whether a stored row is the run of this method that lesson 00 shows."""
    settings = row["settings"]
    settings_of_lesson = {"method": method, "widths": "uniform", "ratio": 0.2}
    refitted = settings["recovery"] == "least-squares"
    stored_aim = settings.get("aim", settings.get("target"))  # older files call the aim "target"
    return bool(
        row.get("seed", 0) == 0
        and settings_of_lesson.items() <= settings.items()
        and refitted == (method == "comp")
        and stored_aim == aim
    )


def stored_variants(file: str) -> dict[str, list[float]]:
    """COMP with one part changed: variant -> loss above the dense model, nats per token, of each seed."""
    runs: dict[str, list[float]] = {}
    for line in (STORED / f"{file}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["changes"].get("ratio", 0.2) == 0.2:
            runs.setdefault(row["name"], []).append(row["increase"])
    return runs
