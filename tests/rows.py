"""Rows of a comparison, as a grid would write them."""

from __future__ import annotations

import pandas as pd

MEASURED_COLUMNS = ("removed", "dense_loss", "loss", "increase", "kl", "top1_agreement")
TIMED_COLUMNS = ("seconds", "peak_megabytes", "decode_ratio")  # differ from run to run
ANSWER = {"status": "ok", "versions": "0"} | dict.fromkeys(
    (*MEASURED_COLUMNS, "increase_low", "increase_high", *TIMED_COLUMNS), 0.5
)
COLUMNS = (*ANSWER, "length", "window_count", "window_length")

INCREASES = {  # (method, ratio): one for each seed
    ("comp", 0.2): (0.4, 0.6),
    ("comp", 0.5): (2.0, 3.0),
    ("wanda-sp", 0.2): (0.45, 0.75),
    ("wanda-sp", 0.5): (1.0, 1.2),
}


def rows_of(increases=INCREASES, sequences=8, **columns):
    """A table with a row for each increase, with `columns` the same in all rows."""
    rows = []
    for (method, ratio), values in increases.items():
        for seed, increase in enumerate(values):
            row = dict.fromkeys(COLUMNS, 1.0) | {
                "key": f"{method}{ratio}{seed}{sequences}",
                "status": "ok",
                "message": None,
                "model": "tiny",
                "method": method,
                "recovery": "least-squares" if method == "comp" else "none",
                "ratio": ratio,
                "seed": seed,
                "sequences": sequences,
                "increase": increase,
                "increase_low": increase - 0.1,
                "increase_high": increase + 0.2,
                "removed": ratio + 0.01,
                "decode_ratio": 1 - ratio,
                "peak_megabytes": 90.0 if method == "comp" else 60.0,
                "calibration": "a",
                "judged_on": "b",
                "versions": "comp-lib 0",
                "kinds": None,
            }
            rows.append(row | columns)
    return pd.DataFrame(rows)
