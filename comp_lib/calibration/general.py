"""What to calibrate on for a model that will meet every kind of text.

A fit to one kind of text spoils the others: calibrated on prose alone SmolLM2 loses 0.88 nats a token on code, on the
same number of tokens of every kind 0.35 (benchmarks/RESULTS.md). So the mixture "general" takes some of every kind that
ships, and text that the model writes itself; "shipped" leaves that out, for a model that is not in memory, and
"written" is that alone.
"""

from __future__ import annotations

from .text import KINDS
from .written import WAYS

SHIPPED = {"calibration": 2.0} | {f"calibration:{kind}": 1.0 for kind in KINDS[1:]} | {"calibration:questions": 2.0}
WRITTEN = {f"self:{way}": 1.0 for way in WAYS}
# Mixture -> its texts and how many sequences each has, relative to the others. Shares: benchmarks/RESULTS.md.
MIXTURES = {"general": SHIPPED | WRITTEN, "shipped": SHIPPED, "written": WRITTEN}
