"""Where the time of a token goes on this machine, as a frame."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..families.protocol import Model
from ..on_device.latency import measure
from ..shape import Shape
from .columns import ALL, tidy
from .store import fingerprint


def latency(model: Model, prompt: int = 128, new_tokens: int = 8, rounds: int = 3) -> pd.DataFrame:
    """Milliseconds of each term of `on_device.latency.CostModel`, of both kinds; columns: COLUMNS["latency"].

    Never from the cache: it is of this machine, now. The model must be in memory.
    """
    prompt = min(prompt, model.config.max_position_embeddings - new_tokens)
    models = measure(model, prompt, new_tokens, rounds)
    rows: list[dict[str, Any]] = []
    for what, cost in models.items():
        parts, misfit = cost.parts(Shape.of(model)), cost.misfit
        shared = {"kind": ALL, "what": what, "misfit": misfit, "tokens": new_tokens if what == "decode" else prompt}
        whole = sum(parts.values())
        for term, time in parts.items():
            bounds = {"low": time * (1 - misfit), "high": time * (1 + misfit)}
            rows.append(shared | bounds | {"term": term, "milliseconds": time, "share": time / whole})
    return tidy("latency", rows, fingerprint(model), 0)
