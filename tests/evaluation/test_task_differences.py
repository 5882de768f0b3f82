"""Two models in the same tasks: paired differences, made up so that they are known."""

from __future__ import annotations

import math
from random import Random

import pytest

from comp_lib.evaluation.task_differences import task_differences


def made_up(answers, groups=None):
    """What lm-eval reports where these items are answered rightly, in no order."""
    samples = {}
    scores = {}
    for task, right in answers.items():
        samples[task] = [{"doc_id": item, "acc": float(value)} for item, value in enumerate(right)]
        Random(1).shuffle(samples[task])
        scores[task] = {"acc,none": sum(right) / len(right), "acc_stderr,none": 0.1}
    for group, members in (groups or {}).items():
        mean = sum(scores[member]["acc,none"] for member in members) / len(members)
        scores[group] = {"acc,none": mean}
    return {"results": scores, "samples": samples, "group_subtasks": groups or {}}


def test_differences_are_paired_item_by_item():
    """Half of the items are right in both: only 20 of 100 that were lost count, and they always count."""
    parent = made_up({"cloze": [1] * 50 + [0] * 50, "sense": [1, 0] * 50})
    small = made_up({"cloze": [1] * 30 + [0] * 70, "sense": [0, 1] + [1, 0] * 49})
    cloze, sense = task_differences(small, parent)
    assert (cloze.task, cloze.measure, cloze.parent_accuracy, cloze.accuracy) == ("cloze", "acc", 0.5, 0.3)
    assert cloze.difference == pytest.approx(-0.2)
    low, high = cloze.interval
    assert low < -0.2 < high < -0.1, "unpaired, it would reach from -0.33 to -0.07"
    assert cloze.differs
    low, high = sense.interval
    assert low < 0 < high
    assert not sense.differs


def test_a_group_stands_for_its_members_and_few_items_have_no_interval():
    groups = {"all": ["grammar", "b"], "grammar": ["a"]}
    parent = made_up({"a": [1] * 20, "b": [1] * 20, "few": [1, 1]}, {"grammar": ["a"]} | groups)
    small = made_up({"a": [1] * 20, "b": [0] * 20, "few": [0, 0]}, {"grammar": ["a"]} | groups)
    few, group = task_differences(small, parent)
    assert (few.task, group.task) == ("few", "all")
    assert math.isnan(few.interval[0])
    assert not few.differs
    assert group.difference == -0.5
    assert group.interval == (-0.5, -0.5)
    assert group.differs


def test_what_is_scored_otherwise_is_left_out():
    results = made_up({"a": [1] * 20})
    results["results"]["poem"] = {"perplexity,none": 12.0}
    assert [row.task for row in task_differences(results, results)] == ["a"]
