"""The search over numbers of whole layers: what it tries, how it judges, and that it is never worse than its start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from command import FEW, run
from variants import build, tokens

from comp_lib import search
from comp_lib.errors import InputError
from comp_lib.plan import Plan
from comp_lib.prune import make_plan, prune
from comp_lib.search import layer_counts, searched_plan
from comp_lib.settings import Settings
from comp_lib.shape import Shape

SETTINGS = Settings(ratio=0.3, multiple=4, aim="dense", layer_metric="greedy")
LAYERS = 6


@pytest.fixture(scope="module")
def model():
    return build(num_hidden_layers=LAYERS)


@pytest.mark.parametrize(
    ("trials", "ratio", "counts"), [(1, 0.5, (0,)), (2, 0.5, (0, 3)), (9, 0.5, (0, 1, 2, 3)), (3, 0.34, (0, 1, 2))]
)
def test_from_the_fewest_layers_to_all_of_the_ratio(model, trials, ratio, counts, monkeypatch):
    monkeypatch.setattr(search, "layers_needed", lambda request: 0)
    assert layer_counts(Shape.of(model), replace(SETTINGS, ratio=ratio), trials) == counts


def test_some_layer_always_stays_with_its_attention(model):
    most = replace(SETTINGS, ratio=0.92)
    assert max(layer_counts(Shape.of(model), most, 4)) == LAYERS - 1
    assert max(layer_counts(Shape.of(model), replace(SETTINGS, ratio=0.5, attentions=4), 4)) == 1


@torch.inference_mode()
def divergence(model, small, ids):
    p, q = (one(input_ids=ids).logits[:, :-1].double().log_softmax(-1) for one in (model, small))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("widths", ["uniform", "measured"])
def test_the_candidate_nearest_to_the_dense_model_wins(model, widths, monkeypatch):
    monkeypatch.setattr(search, "layers_needed", lambda request: 0)
    ids, settings = tokens(12, 24), replace(SETTINGS, widths=widths)
    planned, tried = searched_plan(model, ids, settings, 3)
    assert len({trial.plan.layers for trial in tried}) == len(tried) == 3
    fitted, judged = ids[:9], ids[-3:]
    for trial in tried:
        done = prune(model, fitted, settings, plan=trial.plan)
        assert trial.divergence == pytest.approx(divergence(model, done.model, judged), rel=1e-4)
        assert trial.plan.removed >= 0.3
    best = min(tried, key=lambda trial: trial.divergence)
    assert best.divergence <= tried[0].divergence  # what would be done without a search
    counts = {len(best.plan.dropped)}
    assert {len(planned.plan.dropped)} == counts
    assert planned.plan == make_plan(model, ids, replace(settings, layers=counts.pop())).plan


def test_a_search_is_reproducible_and_tells_how_far_it_is(model):
    ids, told = tokens(8, 24), []
    first = searched_plan(model, ids, SETTINGS, 2, progress=lambda what, *counts: told.append((what, *counts[:2])))
    again = searched_plan(model, ids, SETTINGS, 2)
    assert first == again and [step for step in told if step[0] == "trials"][::2] == [
        ("trials", 0, 2),
        ("trials", 1, 2),
    ]


@pytest.mark.parametrize(
    ("changes", "trials", "ids", "words"),
    [
        ({"method": "flap", "recovery": "bias", "aim": "self"}, 3, tokens(8), "the method flap"),
        ({"layers": 2}, 3, tokens(8), "layers 2"),
        ({}, 0, tokens(8), "at least 1 trial, got 0"),
        ({}, 3, tokens(8)[:1], "at least 2 calibration sequences"),
    ],
)
def test_what_cannot_be_searched_is_refused(model, changes, trials, ids, words):
    with pytest.raises(InputError, match=words):
        searched_plan(model, ids, replace(SETTINGS, **changes), trials)


def test_the_command_line_searches_and_says_what_it_tried(parent, tmp_path):
    where = ["prune", str(parent), "--out", str(tmp_path / "small"), "--ratio", "0.2"]
    done = run(*where, *FEW, "--search", "2")
    assert done.exit_code == 0, done.output
    said = [line for line in done.stderr.splitlines() if "nats from the dense model" in line]
    assert len(said) == 2
    dropped = len(Plan.load(tmp_path / "small" / "comp_plan.json").dropped)
    assert any(f"tried {dropped} layers gone" in line for line in said)
    assert "search" in (tmp_path / "small" / "README.md").read_text("utf-8")
    for more, words in ((["--budget", "latency=0.8"], "a budget in time tries plans"), (["--layers", "1"], "layers 1")):
        refused = run("prune", str(parent), "--out", str(tmp_path / "other"), *FEW, "--search", "2", *more)
        assert refused.exit_code != 0 and words in " ".join(refused.output.split())
        assert not (tmp_path / "other").exists()
