"""docs/check-up.md: each of its few lines draws a figure from a frame, word for word, on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from comp_lib.reports import checkup as analysis

PAGE = (Path(__file__).parents[3] / "docs" / "check-up.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FRAMES = set(analysis.COLUMNS) - {"changed_kinds"}  # a table


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # of seaborn with the newest pandas
def test_a_few_lines_draw_each_frame(parent, own_cache):
    space = {}
    drawn = set()
    for block in BLOCKS:
        code = block.replace('"smollm2-135m"', repr(str(parent))).replace("ratios=(0.1, 0.2)", "(0.2,)")
        exec(compile(code, "docs/check-up.md", "exec"), space)
        assert len(block.strip().splitlines()) <= 6
        if "axes" in space or "grid" in space:
            space.pop("axes", None)
            space.pop("grid", None)
            assert any(part.has_data() for part in plt.gcf().axes)
            plt.close("all")
            drawn |= {name for name in FRAMES if f"analysis.{name}(" in block}
    assert drawn == FRAMES
