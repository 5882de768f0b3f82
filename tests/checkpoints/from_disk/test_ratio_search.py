"""The search for a ratio: where it ends, how often it tries, and what it says where there is none."""

from __future__ import annotations

import math
import re

import pytest
import torch
from command import QUICK_FLAGS, run
from transformers import AutoModelForCausalLM

from comp_lib import Calibration, prune_model
from comp_lib.checkpoints.from_disk.ratio_search import (
    LARGEST_RATIO,
    SMALLEST_RATIO,
    SUFFICIENT_SHARE,
    TRIES,
    largest_ratio,
    ratio_within,
)
from comp_lib.decoder.shape import Shape
from comp_lib.evaluation.by_kind import EvaluationByText
from comp_lib.evaluation.loss import Evaluation
from comp_lib.pruning.planning import make_plan
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError, NoNumber, OutOfReach


def judged_with(loss: float) -> EvaluationByText:
    """The evaluation of a model that has this loss on the only text."""
    return EvaluationByText({"text": Evaluation(by_sequence={"loss": (loss,)}, token_count=1, loss=loss)})


def search(at_most, cost_of):
    """The ratio found, and all that were tried."""
    tried = []

    def noting(ratio):
        tried.append(ratio)
        return cost_of(ratio)

    return largest_ratio(at_most, noting), tried


@pytest.mark.parametrize("at_most", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("power", [2, 3])
def test_the_ratio_costs_nearly_what_is_allowed(at_most, power):
    ratio, tried = search(at_most, lambda ratio: 4 * ratio**power)
    assert 0.5 * at_most <= 4 * ratio**power <= at_most
    assert ratio == max(value for value in tried if 4 * value**power <= at_most)
    assert len(tried) <= TRIES


def test_a_cost_that_suffices_ends_the_search():
    assert search(1.0, lambda ratio: SUFFICIENT_SHARE) == (LARGEST_RATIO / 4, [LARGEST_RATIO / 4])


def test_where_everything_is_free_the_ratio_grows_towards_the_largest():
    ratio, tried = search(1.0, lambda ratio: 0.0)
    assert ratio == tried[-1] == max(tried) <= LARGEST_RATIO
    assert tried == sorted(set(tried))
    assert len(tried) == TRIES


@pytest.mark.parametrize("cost", [None, 5.0, math.nan, math.inf])
def test_where_nothing_is_allowed_the_smallest_ratio_was_tried_last(cost):
    ratio, tried = search(0.1, lambda ratio: cost)
    assert ratio is None
    assert tried[-1] == SMALLEST_RATIO
    assert tried == sorted(set(tried), reverse=True)


def test_ratios_out_of_reach_are_searched_below():
    ratio, tried = search(1.0, lambda ratio: ratio if ratio < 0.1 else None)
    assert ratio < 0.1 < max(tried)


def test_progress_names_each_ratio_and_its_cost():
    lines = []
    largest_ratio(1.0, lambda ratio: 0.95, lambda *call: lines.append(call[:3]))
    assert lines == [("ratio 0.200: +0.950 nats", 1, TRIES)]


# --- with a model: whole prunings, whose costs are stood in for

# Curves of costs: the increase of the loss at each share of the decoder that is removed.


def steep(removed):
    return 5 * removed**2


def straight(removed):
    return 0.9 * removed


def better_at_first(removed):
    return removed**4 - 0.01


def not_a_number_from_two_fifths_on(removed):
    return removed**2 if removed < 0.4 else math.nan


def assert_no_larger_share_is_worth_a_try(costs, removed, at_most):
    """All TRIES are spent, or nearly all is that may be lost, or a little more is known to cost too much."""
    too_dear = [share for share, cost in costs.items() if cost > at_most]
    if costs[removed] >= 0.9 * at_most:
        return
    if too_dear:
        assert min(too_dear) - removed < 0.08
    else:
        assert len(costs) == 1 + TRIES  # the dense model is judged, too


@pytest.mark.parametrize("curve", [steep, straight, better_at_first, not_a_number_from_two_fifths_on])
@pytest.mark.parametrize("at_most", [0.02, 0.2])
def test_at_most_finds_the_largest_share_in_few_prunings(parent, tmp_path, monkeypatch, curve, at_most):
    dense = Shape.of(AutoModelForCausalLM.from_pretrained(parent)).decoder_parameters
    costs = {}  # share of the decoder that is removed -> increase of the loss

    def stand_in(model, windows_by_text):
        removed = 1 - Shape.of(model).decoder_parameters / dense
        costs[removed] = curve(removed) if removed else 0.0
        return judged_with(3.0 + costs[removed])

    monkeypatch.setattr("comp_lib.checkpoints.from_disk.ratio_search.judge", stand_in)
    text = Calibration("calibration", sequences=4, length=24)
    verdict = prune_model(
        parent,
        tmp_path / "small",
        at_most=f"{at_most}nats",
        calibration=text,
        method="random",
        multiple=1,
    )
    assert len(costs) <= 1 + TRIES  # the dense model is judged, too
    removed = verdict.plan.removed
    largest = max(share for share, cost in costs.items() if cost <= at_most)
    assert removed == pytest.approx(largest)
    assert_no_larger_share_is_worth_a_try(costs, largest, at_most)
    flag = re.search(r"--ratio (\S+)", (tmp_path / "small" / "README.md").read_text("utf-8"))
    assert float(flag[1]) == verdict.plan.ratio
    assert removed - verdict.plan.ratio < 0.02


def test_at_most_judges_the_numbers_that_the_files_will_hold(parent, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(parent).eval()
    original = {name: weight.clone() for name, weight in model.named_parameters()}
    judged = []

    def stand_in(model, windows_by_text):
        judged.append([weight.clone() for weight in model.parameters()])
        return judged_with(3.0)

    monkeypatch.setattr("comp_lib.checkpoints.from_disk.ratio_search.judge", stand_in)
    ids = torch.arange(64).view(4, 16)
    settings = Settings(method="random", recovery="none", multiple=1)
    ratio_within(0.1, model, ids, {}, settings, saved_dtype=torch.bfloat16)
    assert len(judged) > 1
    for weights in judged[1:]:
        assert all(torch.equal(weight, weight.bfloat16().float()) for weight in weights)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, original[name])


@pytest.mark.parametrize(("dtype", "is_found"), [(torch.float16, False), (torch.float32, True)])
def test_a_ratio_whose_file_holds_no_number_is_never_promised(dtype, is_found, parent):
    """Numbers beyond 65,504 are infinite in float16: in memory all is well, in the file nothing."""
    model = AutoModelForCausalLM.from_pretrained(parent).eval()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1e7)
        model.model.layers[0].mlp.down_proj.weight.mul_(1e-7)
    ids = torch.arange(64).view(4, 16)
    settings = Settings(method="random", recovery="none", multiple=1)
    if is_found:
        assert ratio_within(9.0, model, ids, {"text": ids}, settings, saved_dtype=dtype) > SMALLEST_RATIO
        return
    message = r"got 9, where the loss without 1\.\d% of the decoder is no number: choose other settings$"
    with pytest.raises(InputError, match=message) as raised:
        ratio_within(9.0, model, ids, {"text": ids}, settings, saved_dtype=dtype)
    assert not isinstance(raised.value, NoNumber)


def test_the_search_goes_on_below_a_ratio_whose_loss_is_no_number(parent, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(parent).eval()
    dense = Shape.of(model).decoder_parameters

    def stand_in(model, windows_by_text):
        if 1 - Shape.of(model).decoder_parameters / dense > 0.1:
            raise NoNumber(expected="loss as a finite number", got="nan")
        return judged_with(3.0)

    monkeypatch.setattr("comp_lib.checkpoints.from_disk.ratio_search.judge", stand_in)
    ids = torch.arange(64).view(4, 16)
    settings = Settings(method="random", recovery="none", multiple=1)
    assert 0.04 < ratio_within(0.1, model, ids, {}, settings, saved_dtype=torch.float32) <= 0.1


def test_a_parent_whose_loss_is_no_number_is_told_before_anything_is_pruned(parent, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(parent).eval()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    monkeypatch.setattr(
        "comp_lib.checkpoints.from_disk.ratio_search.make_plan", lambda *_, **__: pytest.fail("this is work")
    )
    ids = torch.arange(64).view(4, 16)
    with pytest.raises(NoNumber):
        ratio_within(0.1, model, ids, {"text": ids}, Settings(), saved_dtype=torch.float32)


@pytest.mark.parametrize("kind", [OutOfReach, InputError])
def test_at_most_goes_on_after_a_ratio_out_of_reach_and_after_no_other_refusal(parent, monkeypatch, kind):
    model = AutoModelForCausalLM.from_pretrained(parent).eval()
    ratios = []

    def make_plan_below_a_tenth(model, ids, settings, progress):
        ratios.append(settings.ratio)
        if settings.ratio > 0.1:
            raise kind(expected="less", got=settings.ratio)
        return make_plan(model, ids, settings, progress=progress)

    monkeypatch.setattr("comp_lib.checkpoints.from_disk.ratio_search.make_plan", make_plan_below_a_tenth)
    judged = judged_with(3.0)
    monkeypatch.setattr(
        "comp_lib.checkpoints.from_disk.ratio_search.judge", lambda model, windows_by_text: judged
    )
    ids = torch.arange(64).view(4, 16)
    settings = Settings(method="random", recovery="none", multiple=1)
    if kind is OutOfReach:
        assert ratio_within(0.1, model, ids, {}, settings, saved_dtype=torch.float32) <= 0.1
        assert max(ratios) > 0.1
        assert len(ratios) == TRIES
    else:
        with pytest.raises(InputError, match="expected less"):
            ratio_within(0.1, model, ids, {}, settings, saved_dtype=torch.float32)
        assert len(ratios) == 1


def test_at_most_out_of_reach_says_what_the_smallest_step_costs(parent, tmp_path, monkeypatch):
    losses = iter([3.0, 3.9, 3.8, 3.7, 3.5])
    monkeypatch.setattr(
        "comp_lib.checkpoints.from_disk.ratio_search.judge",
        lambda model, windows_by_text: judged_with(next(losses)),
    )
    flags = ["--at-most", "0.01", *QUICK_FLAGS[:4], "--multiple", "1", "--calibration", "calibration"]
    result = run("prune", parent, "--out", tmp_path / "small", *flags)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("comp-lib: expected at_most")
    assert "got 0.01, where 1.2% of the decoder costs 0.500 already: allow more" in result.stderr
    tries = re.findall(r"ratio (\S+): \+(\S+) nats: (\d) of 5", result.stderr)
    assert tries == [
        ("0.200", "0.900", "1"),
        ("0.050", "0.800", "2"),
        ("0.013", "0.700", "3"),
        ("0.010", "0.500", "4"),
    ]
    assert not list(tmp_path.iterdir())


def test_at_most_says_so_where_no_plan_reaches_the_smallest_ratio(parent, monkeypatch):
    """The message has no share and no price of an earlier pruning."""
    model = AutoModelForCausalLM.from_pretrained(parent).eval()

    def make_plan_above_a_tenth(model, ids, settings, progress):
        if settings.ratio < 0.1:
            raise OutOfReach(expected="more", got=settings.ratio)
        return make_plan(model, ids, settings, progress=progress)

    losses = iter([3.0, 3.9, 3.8])
    monkeypatch.setattr("comp_lib.checkpoints.from_disk.ratio_search.make_plan", make_plan_above_a_tenth)
    monkeypatch.setattr(
        "comp_lib.checkpoints.from_disk.ratio_search.judge",
        lambda model, windows_by_text: judged_with(next(losses)),
    )
    ids = torch.arange(64).view(4, 16)
    settings = Settings(method="random", recovery="none", multiple=1)
    message = r"got 0\.01, where no plan reaches the ratio 0\.01: choose other settings$"
    with pytest.raises(InputError, match=message):
        ratio_within(0.01, model, ids, {}, settings, saved_dtype=torch.float32)
