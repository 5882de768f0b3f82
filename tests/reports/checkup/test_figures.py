"""Pictures of a check-up: each can be read, and its alt text is computed from its frame."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from comp_lib.reports.checkup import changed_layers, costs, draw, figures, layers
from course.figures import overlapping_texts


@pytest.fixture(scope="module")
def frames(tokenizer, tiny_llama, tmp_path_factory):
    model = tiny_llama()
    sample = draw(tokenizer, ("prose", "code"), window_count=4, window_length=32)
    judging = {kind: sample.ids for kind in ("prose", "code")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMP_LIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {
            "layers": layers(model, sample, judged=sample),
            "costs": costs(model, sample, judging, (0.1, 0.3), ("stock", "magnitude")),
            "changed_layers": changed_layers(tiny_llama(seed=1), model, sample),
        }


@pytest.mark.parametrize("name", ["layers", "costs", "changed_layers"])
def test_each_can_be_read(frames, name):
    figure = getattr(figures, f"plot_{name}")(frames[name])
    assert overlapping_texts(figure) == []
    assert figure.alt_text.endswith(".")
    assert "nan" not in figure.alt_text


def test_costs_are_said_with_their_intervals_where_there_are_some():
    row = {"ratio": 0.2, "removed": 0.2, "tokens": 64, "kind": "all", "model": "m", "seed": 0}
    rows = [row | {"way": "b", "increase": 0.4, "low": np.nan, "high": np.nan}]
    rows += [row | {"way": "a", "increase": 0.2, "low": 0.1, "high": 0.3}]
    frame = pd.DataFrame(rows).set_index(["model", "seed", "kind"])
    assert figures.plot_costs(frame).alt_text.endswith("at 20% b 0.40, a 0.20 (0.10 to 0.30).")


def test_a_dropped_layer_is_named(frames):
    frame = frames["changed_layers"].copy()
    frame.loc[frame.layer == 1, ["other_layer", "stream", "low", "high", "weights"]] = np.nan
    text = figures.plot_changed_layers(frame).alt_text
    assert "dropped are the layers 1." in text
    assert "0 of 3 layers have the same weights" in text
