"""The table of methods names what the tables of recoveries, planners, metrics and settings have."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from comp_lib.importance.neuron_metrics import METHODS_WITHOUT_METRIC, METRICS
from comp_lib.pruning.methods import METHODS, OWN_METRIC, RECOVERY_NAMES
from comp_lib.pruning.planning import PLANNERS
from comp_lib.pruning.settings import Settings, usual_preset
from comp_lib.recovery.recoveries import RECOVERIES
from comp_lib.utils.errors import InputError


def test_the_names_of_recoveries_are_those_of_the_table():
    assert RECOVERY_NAMES == tuple(RECOVERIES)


def test_every_planner_plans_for_a_method():
    assert {method.planner for method in (*METHODS.values(), OWN_METRIC)} == {*PLANNERS}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_what_there_is(name):
    method = METHODS[name]
    assert method.recovery in RECOVERIES
    assert method.recovery_without_biases in (None, *RECOVERIES)
    assert method.allowed.keys() <= {field.name for field in fields(Settings)}
    if not method.names_what_stays:
        assert Settings(method=name).completed().neuron_metric in METRICS
    own_recovery = METHODS[name].recovery
    completed = Settings(method=name).completed()
    assert completed.recovery == own_recovery
    assert completed == Settings.preset(usual_preset(name), method=name).completed() == completed.completed()
    assert replace(Settings(), method=name) == Settings(method=name)


@pytest.mark.parametrize("recovery", [name for name in RECOVERY_NAMES if name != "least-squares"])
def test_widths_are_estimated_only_for_least_squares(recovery):
    assert Settings().completed().widths == "estimated"
    assert Settings(recovery=recovery).completed().widths == "uniform"
    with pytest.raises(InputError, match="recovery to be least-squares with widths estimated"):
        Settings.preset("tailored", recovery=recovery)


def test_a_method_is_a_metric_or_a_name_that_no_metric_may_have():
    assert {*METHODS_WITHOUT_METRIC} == METHODS.keys() - METRICS.keys() | {"condition"}
