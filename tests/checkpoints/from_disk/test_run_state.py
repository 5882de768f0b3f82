"""What is finished of a run comes back from its JSON, and nothing else does."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from comp_lib.checkpoints.from_disk.run_state import CarriedFiles, RunState
from comp_lib.pruning.report import LayerReport
from comp_lib.utils.errors import InputError
from comp_lib.utils.hashes import hash_of_value

A_REPORT = LayerReport(1, 0.1, 1 / 3, None, 2.5, (0, 2), (1,))
STREAMS = CarriedFiles("states-0", "states-3", True, {"mlp": 2}, (1, 255))
STATE = RunState(
    {"name": "a", "plan": None, "dtype": ["x"]},
    plan="{}",
    layers=(None, A_REPORT, replace(A_REPORT, mlp_error=0, mlp_ridge=0.5)),
    streams=STREAMS,
    dense_losses=(1.5, 2.0),
    checksums={"states-0": 7},
)
OTHER_VALUES = {
    "identity": [None, 3, "x", []],
    "plan": [3, False, [], {}],
    "layers": [None, 3, "x", {}, [3], ["x"], [[]], [{}]],
    "layers 1 layer": ["1", 1.5, True, None, []],
    "layers 1 mlp_error": ["0.1", None, True, [], {}],
    "layers 1 mlp_ridge": ["0.1", False, [], {}],
    "layers 1 kept_neurons": [None, 3, "01", {}, ["0"], [0.5], [None], [True]],
    "layers 1 more": [0],
    "streams": [3, "x", [], {}],
    "streams pruned_stream": [None, 3, [], "", "states-", "../states-0", "/states-0", "states-0/../../x"],
    "streams dense_stream": [3, [], "", "progress.json", "states-0\n"],
    "streams may_differ": [None, 0, 1, "true"],
    "streams ridge_positions": [None, [], 3, {"mlp": "2"}, {"mlp": None}, {"head": 2}],
    "streams generator": [None, 3, "x", {}, ["1"], [1.5], [None]],
    "dense_losses": [3, "x", {}, [None], ["1.5"], [[1.5]]],
    "pruned_losses": [3, "x", {}, [None], ["1.5"], [[1.5]]],
    "exported": [None, 0, 1, "false", []],
    "checksums": [None, 3, [], {"a": "b"}, {"a": 1.5}],
    "more": [0],
}
CASES = [(path_of_field, value) for path_of_field, values in OTHER_VALUES.items() for value in values]


def fields_with(path_of_field, value):
    """The fields of STATE, with another value at one place."""
    fields = copy.deepcopy(json.loads(STATE.to_json()))
    del fields["checksum"]
    *outer, last = [int(key) if key.isdigit() else key for key in path_of_field.split()]
    holder = fields
    for key in outer:
        holder = holder[key]
    holder[last] = value
    return fields


@pytest.mark.parametrize(("path_of_field", "value"), CASES)
def test_a_value_of_another_type_is_refused_though_the_checksum_is_right(path_of_field, value):
    fields = fields_with(path_of_field, value)
    with pytest.raises(InputError, match="the progress of a run of this version.*delete that folder"):
        RunState.from_json(fields | {"checksum": hash_of_value(fields)}, "here")


@pytest.mark.parametrize("state", [STATE, RunState({}), replace(STATE, streams=None, exported=True)])
def test_what_is_finished_comes_back(state):
    assert RunState.from_json(json.loads(state.to_json()), "here") == state


@pytest.mark.parametrize("name", json.loads(STATE.to_json()))
def test_a_field_that_is_left_out_is_refused(name):
    fields = json.loads(STATE.to_json())
    del fields[name]
    checksum = {} if name == "checksum" else {"checksum": hash_of_value(fields)}
    with pytest.raises(InputError, match="the progress of a run of this version"):
        RunState.from_json(fields | checksum, "here")


@pytest.mark.parametrize(
    ("path_of_field", "value"),
    [
        ("layers 1 mlp_error", 0.2),
        ("dense_losses", [1.5, 2.5]),
        ("streams generator", [1, 254]),
        ("layers", []),
    ],
)
def test_a_value_of_the_same_type_is_refused_by_the_checksum(path_of_field, value):
    first_checksum = json.loads(STATE.to_json())["checksum"]
    with pytest.raises(InputError, match="the progress of a run of this version"):
        RunState.from_json(fields_with(path_of_field, value) | {"checksum": first_checksum}, "here")
