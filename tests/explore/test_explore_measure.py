"""The numbers of part 1, taken from a tiny model: what is kept, and that a later call goes on."""

from __future__ import annotations

import json

import explore
import measure
import pytest
import torch


@pytest.fixture
def small(monkeypatch, tmp_path, tiny_llama, tokenizer):
    """measure.py with a tiny model, one text, two ratios and one way, and a folder of its own."""
    windows = {
        kind: torch.randint(512, (2, 16), generator=torch.Generator().manual_seed(seed))
        for seed, kind in enumerate(measure.KINDS)
    }
    changes = {
        "NUMBERS": tmp_path,
        "RATIOS": (0.2, 0.4),
        "WAYS": ("stock",),
        "CALIBRATION": "calibration:code",
        "SEQUENCES": 4,
        "LENGTH": 24,
        "NEW_TOKENS": 3,
        "load_model": lambda name: (tiny_llama(), tokenizer),
        "windows_of": lambda judged_on, tokenizer, window: windows,
    }
    for name, value in changes.items():
        monkeypatch.setattr(measure, name, value)
    return tmp_path


def test_costs_are_kept_run_by_run(small, monkeypatch):
    measure.measure_costs(minutes=-1)
    kept = json.loads((small / "costs.json").read_text("utf-8"))
    assert kept["runs"] == {"stock": {}}
    assert set(kept["dense"]["losses"]) == set(measure.KINDS)
    assert len(kept["dense"]["texts"]) == len(measure.PROMPTS)
    explore.page(small)  # also with no run

    monkeypatch.setattr(measure, "RATIOS", (0.2,))
    measure.measure_costs(minutes=60)
    first = json.loads((small / "costs.json").read_text("utf-8"))["runs"]["stock"]
    assert list(first) == ["0.2"]
    assert first["0.2"]["removed"] >= 0.2
    assert first["0.2"]["parameters"] < kept["dense"]["parameters"]
    assert first["0.2"]["bytes"] == 2 * first["0.2"]["parameters"]

    monkeypatch.setattr(measure, "RATIOS", (0.2, 0.4))
    pruned = []
    prune = measure.prune
    monkeypatch.setattr(measure, "prune", lambda *given: pruned.append(given[2].ratio) or prune(*given))
    measure.measure_costs(minutes=60)
    assert pruned == [0.4], "the run that is there is not made again"
    both = json.loads((small / "costs.json").read_text("utf-8"))["runs"]["stock"]
    assert both["0.2"] == first["0.2"]
    assert "20% removed" in explore.page(small)


def test_a_run_at_the_ratio_of_the_slider(javascript, small):
    measure.measure_costs(minutes=60)
    kept = json.loads((small / "costs.json").read_text("utf-8"))
    body = """
    const pairs = [["one two", "one too"], ["one", "one"], ["a b", "a b c"], ["", "x"]];
    const at = (ratio) => m.runAt(data, "stock", ratio).removed;
    return { at: [0, 0.05, 0.15, 0.25, 0.4, 0.5].map(at), ratios: m.knownRatios(data, "stock"),
      verdict: m.costsVerdict(data, data.runs.stock["0.4"]), ways: m.knownWays(data),
      common: pairs.map((pair) => m.commonBeginning(...pair)) };
    """
    answer = javascript("part_costs.js", body, kept)
    fifth, two_fifths = (kept["runs"]["stock"][ratio]["removed"] for ratio in ("0.2", "0.4"))
    assert answer["at"] == [0, 0, fifth, fifth, two_fifths, two_fifths]
    assert answer["ratios"] == [0, 0.2, 0.4]
    assert answer["ways"] == ["stock"]
    rise = sum(kept["runs"]["stock"]["0.4"]["losses"].values()) - sum(kept["dense"]["losses"].values())
    assert f"The loss rises by {rise / len(measure.KINDS):.2f} nats" in answer["verdict"]
    assert answer["common"] == [4, 3, 2, 0]
