"""The page on large models: parameters by shape, its formulas by hand, and that it says what the script makes."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
from variants import build, tokens

from comp_lib import prune_layer
from comp_lib.prune import prune
from comp_lib.scale.limit import Run
from comp_lib.settings import Settings
from comp_lib.shape import Shape


@pytest.fixture
def large(monkeypatch):
    """The script."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("large")


def test_the_page_says_what_the_script_makes(large):
    assert large.page() == large.PAGE.read_text("utf-8"), "run python benchmarks/large.py"


def test_shapes_have_the_parameters_of_the_models(large):
    for model, billions in zip(large.MODELS, (68.98, 405.85), strict=True):
        assert large.shape_of(model).total == pytest.approx(billions * 1e9, rel=0.005)


def test_sizes_by_hand(large):
    run = large.run_of(large.MODELS[1], "a long text")
    assert large.sums_bytes(run) == 8 * 53248**2 and large.matrices(run)
    assert not large.matrices(large.run_of(large.MODELS[1], "a short text"))
    after = run.shape.total - run.plan.removed * run.shape.total
    assert large.disk_bytes(run) == pytest.approx(2 * run.shape.total + 2 * after + 6 * 65536 * 16384 * 4)


def test_more_machines_divide_what_workers_do_and_nothing_else(large, monkeypatch):
    run = large.run_of(large.MODELS[0], "a long text")
    workers, client, _ = large.shared_seconds(run, 1.0)
    whole = sum(large.least_seconds(run, large.machine()).values())
    assert client + large.WORKERS * workers == pytest.approx(whole)
    assert large.shared_seconds(run, 2.0)[:2] == pytest.approx((2 * workers, 2 * client))


def test_the_measured_runs_are_those_that_the_page_names(large):
    least, most = large.times_the_limit()
    assert 1.0 < least < most
    with pytest.raises(ValueError):  # none of the 7B shape had enough tokens for matrices
        large.times_the_limit(matrices=True)


def test_files_are_read_no_faster_than_they_are_written(large):
    assert large.machine().read <= large.machine().written


def test_states_cross_the_bus_as_often_as_they_are_sent(large, monkeypatch):
    """Of a tiny model: what `prune` sends to its device, and what comes back."""
    sent, back, model, ids = [], [], build("gqa"), tokens(8, 32)
    send, through = prune_layer.sent, prune_layer.Here.through

    def counted(states, device):
        sent.append(states.nbytes)
        return send(states, device)

    def passed(self, layer, step, hidden):
        out = through(self, layer, step, hidden)
        back.append(out.nbytes)
        return out

    monkeypatch.setattr(prune_layer, "sent", counted)
    monkeypatch.setattr(prune_layer.Here, "through", passed)
    settings = Settings(ratio=0.2, multiple=4)
    shape, plan = Shape.of(model), prune(model, ids, settings).plan
    there, returned = large.bus_bytes(Run(shape, plan, settings, *ids.shape, stored=0, saved=4))
    left = shape.with_widths(plan.neurons, plan.kv_groups).decoder
    assert there == 4 * shape.decoder + sum(sent) and returned == 4 * left + sum(back)


def test_a_card_takes_its_products_the_disk_and_the_bus(large):
    run = large.run_of(large.MODELS[0], "a short text")
    card = large.CARDS[0]
    slow = large.card_seconds(run, replace(card, bus=card.bus / 2)) - large.card_seconds(run, card)
    assert slow == pytest.approx(sum(large.bus_bytes(run)) / card.bus)
    here = large.machine()
    as_here = replace(card, single=here.single, double=here.double, bus=float("inf"))
    assert large.card_seconds(run, as_here) == pytest.approx(sum(large.least_seconds(run, here).values()))
