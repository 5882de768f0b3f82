"""The widgets of the lessons, driven without a browser: each control is answered from stored statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ipywidgets import HTML
from studies import study_of
from tools import SMOLLM2

from comp_lib.hybrid_granularity.by_harm import plan_by_harm
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.plan import PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.reports.checkup import Sample, curves, neurons
from comp_lib.reports.plots import base
from comp_lib.utils.errors import InputError
from course.figures.layer_importance import plot_layer
from course.hybrid_granularity import layer_errors, stored_harm, water_filling_plan
from course.widgets import explorers

pytestmark = pytest.mark.slow
LAYERS = 30
FINAL_ERRORS = torch.linspace(0.05, 0.5, LAYERS, dtype=torch.float64)
CURVES = (FINAL_ERRORS[:, None] * (torch.arange(44) / 44.0) ** 3).tolist()
HARM = [0.01 + ((7 * layer) % LAYERS) / 100 for layer in range(LAYERS)]
MEASURED = stored_harm({"gone": 416, "kl": HARM, "curves": CURVES})
IMPORTANCE = [1.0 + (7 * layer) % LAYERS for layer in range(LAYERS)]


def width_spread(plan):
    """Stands for a model: the more uneven the widths, the larger the loss."""
    spread = (max(plan.neurons) - min(plan.neurons)) / 1536
    return 0.5 + spread, 0.4 + spread, 0.6 + spread


def planner(**options):
    return explorers.Planner(
        SMOLLM2, MEASURED, IMPORTANCE, multiple=32, **{"measure": width_spread} | options
    )


@pytest.fixture(autouse=True)
def words_only(request, monkeypatch):
    """Pictures have no pixels, which take most of the time, except in the test that looks at them."""
    if request.function is not test_every_control_draws_anew_and_the_page_does_not_jump:
        monkeypatch.setattr(base, "png", lambda figure: b"")


@pytest.fixture(scope="module")
def frames(tiny_llama, tmp_path_factory):
    """Neurons and curves of layers 1 and 2."""
    ids = torch.randint(512, (4, 24), generator=torch.Generator().manual_seed(2))
    sample = Sample(ids, ("prose",) * len(ids))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMP_LIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return neurons(tiny_llama(), sample, [1, 2]), curves(tiny_llama(), sample, [1, 2])


MAKERS = {
    "layers": lambda frames: explorers.LayerExplorer(study_of()),
    "neurons": lambda frames: explorers.NeuronExplorer(*frames, layer=1),
    "plans": lambda frames: planner(),
}
MOVES = {
    "layers": [("layer", 3), ("metric", "loss increase"), ("sequence", 1)],
    "neurons": [("layer", 2), ("share", 40), ("metric", "energy"), ("place", 7)],
    "plans": [("ratio", 30), ("dropped", (3, 0, 20)), ("widths", explorers.MEASURED)],
}


@pytest.mark.parametrize("name", MOVES)
def test_every_control_draws_anew_and_the_page_does_not_jump(frames, name):
    explorer = MAKERS[name](frames)
    images = [explorer.image.value]
    assert 'alt="' in images[0]
    assert explorer.layout.min_height
    assert explorer.image.layout.min_height
    for control_name, value in MOVES[name]:
        control = getattr(explorer, control_name)
        control.value = value
        assert not getattr(control, "continuous_update", False)  # no answer while it moves
        images.append(explorer.image.value)
    assert len(set(images)) == len(images)


# --- layers -------------------------------------------------------------------------------------------------


def test_the_layer_explorer_shows_the_layer_that_is_chosen_and_how_far_the_proxy_is_off():
    study = replace(study_of(), influence=torch.tensor([0.9, 0.05, 0.04, 0.02, 0.01, 0.03]))
    box = explorers.LayerExplorer(study, layer=3)
    assert f'alt="{plot_layer(study, 3, "block influence", 0).alt_text}"' in box.image.value
    assert "(place 2 of 6), loss increase 2.000 nats per token" in box.facts.value
    assert "place 5 of 6" in box.facts.value
    verdicts = {3: "3 places too low", 5: "1 place too low", 1: "4 places too high", 0: "two agree"}
    for layer, verdict in verdicts.items():
        box.layer.value = layer
        assert verdict in box.facts.value


def test_wrong_input_is_answered_with_a_sentence_and_the_last_picture_stays():
    box = explorers.LayerExplorer(study_of())
    image = box.image.value
    for sequence in (-1, 2):
        box.sequence.value = sequence
        assert f"expected a sequence from 0 to 1, got {sequence}" in box.facts.value
        assert box.image.value == image
    box.sequence.value = 1
    assert "expected" not in box.facts.value
    assert box.image.value != image


# --- neurons ------------------------------------------------------------------------------------------------


def test_what_goes_is_what_the_metric_likes_least(frames):
    explorer = explorers.NeuronExplorer(*frames, layer=1)
    rows = explorer._neurons[1]
    scores_of_metric = {
        "energy": explorers.energies(rows),
        "condition alone": 1 / rows.condition,
        explorers.ONE_LOOK: rows.cost,
        "wanda-sp": rows.wanda_sp,
    }
    for metric, scores in scores_of_metric.items():
        explorer.metric.value = metric
        removed = explorer.removed()
        assert removed.sum() == 10, metric
        assert scores[removed].max() < scores[~removed].min(), metric
    explorer.metric.value = explorers.IN_ROUNDS
    turns = rows.removed_at[explorer.removed()] * len(rows)
    assert sorted(turns.round().astype(int)) == list(range(1, 11))
    explorer.share.value = explorer.share.max  # no further than the sweep
    swept = int(rows.removed_at.notna().sum())
    for metric in (explorers.IN_ROUNDS, "energy"):
        explorer.metric.value = metric
        assert explorer.removed().sum() == swept <= 0.6 * 48


def test_it_says_whether_energy_and_cost_agree_on_the_neuron(frames):
    """What the task of the lesson asks for: a neuron that goes by energy and stays by its cost."""
    explorer = explorers.NeuronExplorer(*frames, layer=1)
    rows = explorer._neurons[1]
    energy = explorers.energies(rows)
    rows["condition"] = np.linspace(1.0, 4.0, 48)  # a random model's are all alike
    rows["cost"] = energy / rows.condition**2
    by_energy, by_cost = (explorer.removed(name) for name in ("energy", explorers.ONE_LOOK))
    assert (by_energy & ~by_cost).any(), "the task has an answer"
    cheapest_first = rows.cost.to_numpy().argsort(kind="stable")
    for cost_rank in range(1, 49, 5):
        explorer.place.value = cost_rank
        neuron = cheapest_first[cost_rank - 1]
        fates = ["is removed" if removed[neuron] else "stays" for removed in (by_energy, by_cost)]
        assert f"it {fates[0]} by energy and {fates[1]} by full-condition, one look." in explorer.facts.value


# --- plans --------------------------------------------------------------------------------------------------


def test_the_planner_opens_with_a_plan_that_can_be_read_and_used():
    box = planner(parent="dense", task="find a plan <better> than that")
    assert box.plan == uniform_plan(PlanRequest(SMOLLM2, 0.2, multiple=32, parent="dense"))
    left = SMOLLM2.with_widths(box.plan.neurons, box.plan.kv_groups).total_parameters
    assert f"{left:,} of 134,515,008" in box.facts.value
    assert f"{left * 4 / 1e6:,.1f} of 538.1" in box.facts.value
    assert f"{float(layer_errors(MEASURED, SMOLLM2, box.plan).nansum()):.2%}" in box.facts.value
    assert "time" not in box.facts.value
    assert "not measured yet" in box.facts.value
    assert isinstance(box.children[0], HTML)
    assert "find a plan &lt;better&gt;" in box.children[0].value


def test_widths_are_those_of_the_library():
    box = planner()
    box.dropped.value = (5,)
    request = PlanRequest(SMOLLM2, 0.2, drop=[5], multiple=32)
    plans = {
        explorers.WATER: water_filling_plan(request, MEASURED),
        explorers.PER_LAYER: paper_plan(request, IMPORTANCE),
        explorers.MEASURED: plan_by_harm(request, MEASURED),
    }
    for rule, plan in plans.items():
        box.widths.value = rule
        assert box.plan == plan


def test_widths_can_be_set_by_hand():
    box = planner()
    assert box.width.disabled
    assert box.layer.disabled
    box.widths.value = explorers.BY_HAND
    assert box.plan.neurons == (1120,) * LAYERS
    assert box.width.value == 1120  # from the plan that was shown
    box.width.value = 1536
    assert box.plan.neurons == (1536, *(1120,) * (LAYERS - 1))
    assert "asked for: narrow more" in box.facts.value
    box.layer.value = 23
    assert box.width.value == 1120
    assert box.plan.neurons[0] == 1536  # nothing changes but the layer looked at
    box.width.value = 704
    assert box.plan.neurons[23] == 704
    assert "narrow more" not in box.facts.value
    box.dropped.value = (4,)
    assert box.plan.dropped == (4,)
    assert box.plan.neurons[0] == 1536
    assert box.plan.neurons[22] == 704


def test_the_button_measures_the_plan_shown_once_and_keeps_the_order():
    measured_plans = []

    def measure(plan):
        measured_plans.append(plan)
        return width_spread(plan)

    box = planner(measure=measure)
    box.measure_button.click()
    box.measure_button.click()
    assert "0.500 nats per token (0.400 to 0.600)" in box.facts.value
    assert len(measured_plans) == 1
    box.widths.value = explorers.WATER
    assert "not measured yet" in box.facts.value
    box.measure_button.click()
    assert set(box.measured) == set(measured_plans)
    assert not box.measure_button.disabled
    assert box.results.value.count("<li>") == 2
    assert box.results.value.index("0.500 nats") < box.results.value.index("1120 to 1120")
    box.widths.value = explorers.UNIFORM
    assert "0.500 nats per token" in box.facts.value  # it is remembered
    assert planner(measure=None).measure_button.disabled


def test_a_refusal_of_the_planner_is_a_sentence():
    def refuse(plan):
        raise InputError(expected="more text", got="none", hint="give some")

    box = planner(measure=refuse)
    box.measure_button.click()
    assert "expected more text" in box.results.value
    assert not box.measure_button.disabled
    assert not box.measured
    box.ratio.value = box.ratio.max
    box.dropped.value = tuple(range(LAYERS))
    assert box.plan is None
    assert "expected fewer than 30 layers to drop" in box.facts.value
    box.measure_button.click()
    assert not box.measured  # there is nothing to measure


# --- stills -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_an_explorer_brings_a_still_of_what_it_shows(frames, name):
    explorer = MAKERS[name](frames)
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert explorer.image.value in bundle["text/html"]
    assert explorer.facts.value in bundle["text/html"]
