"""Reads the stored runs of `benchmarks` that lesson 00 shows.

In all of them a fifth of the decoder is removed, with one width for all layers.
"""

from __future__ import annotations

import json
from pathlib import Path

STORED = Path(__file__).parents[2] / "benchmarks"
Windows = list[float]
"""Loss above the dense model on each window of the text that judges, nats per token."""


def stored_variants(file: str) -> dict[str, list[Windows]]:
    """COMP with one part changed: variant -> for each seed, the windows of its run at a fifth."""
    runs: dict[str, list[Windows]] = {}
    for line in (STORED / f"{file}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["changes"].get("ratio", 0.2) == 0.2:
            runs.setdefault(row["name"], []).append(row["increases"])
    return runs
