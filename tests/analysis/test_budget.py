"""What fits into the minutes: more minutes never mean less, and what is left out is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from comp_lib.analysis.budget import Effort, Speed, fit, predict
from comp_lib.analysis.checkup import WHOLE
from comp_lib.analysis.parameters import Parameters
from comp_lib.errors import InputError
from comp_lib.plan import tuples
from comp_lib.shape import Shape

SHAPE = Shape(576, 64, 3, (1536,) * 30, (3,) * 30, 1728, 294912, (1152,) * 30, 28_000_000)
SPEED = Speed(token=3e-3, inversion=0.4)
ASKED = replace(WHOLE, ratios=(0.1, 0.2, 0.3), ways=("uniform", "measured"))


def test_all_is_done_with_time_enough_and_little_with_little():
    assert replace(fit(1e4, SPEED, SHAPE, ASKED, 8), predicted={}) == replace(ASKED, left_out=(), predicted={})
    least = fit(0.01, SPEED, SHAPE, ASKED, 8)
    assert least.ratios == () and least.judged == 0 and not least.latency
    assert {what for what, _ in least.left_out} >= {
        "loss by kind of text, measured at one ratio",
        "greedy removal of layers",
    }
    assert all(minutes > 0 for _, minutes in least.left_out)


def test_more_minutes_never_mean_less():
    efforts = [fit(minutes, SPEED, SHAPE, ASKED, 8) for minutes in (1, 3, 10, 30, 100, 1000)]
    taken = [sum(effort.predicted.values()) for effort in efforts]
    assert taken == sorted(taken)
    for minutes, effort in zip((3, 10, 30, 100, 1000), efforts[1:], strict=True):
        assert sum(effort.predicted.values()) <= 60 * minutes


def test_a_prediction_grows_with_what_is_asked():
    small = replace(ASKED, windows=1, judged=4)
    assert all(
        a <= b
        for a, b in zip(predict(small, SPEED, SHAPE, 8).values(), predict(ASKED, SPEED, SHAPE, 8).values(), strict=True)
    )


def test_an_effort_survives_json():
    effort = fit(5, SPEED, SHAPE, ASKED, 8)
    assert Effort(**tuples(json.loads(json.dumps(asdict(effort))))) == effort


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modle": "x"}, "did you mean 'model'"),
        ({"minutes": "ten"}, "minutes to be float, got 'ten'"),
        ({"minutes": 0}, "minutes above 0"),
        ({"minutes": float("nan")}, "minutes above 0"),
        ({"minutes": True}, "minutes to be float"),
        ({"kinds": "prose"}, "kinds to be a list of str"),
        ({"kinds": ["poems"]}, "kinds of text among"),
        ({"ratios": [0.3, 0.1]}, "rising ratios"),
        ({"ratios": [1.5]}, "rising ratios"),
        ({"ratios": []}, "rising ratios"),
        ({"peer": "magnitud"}, "did you mean 'magnitude'"),
        ({"allowed": -1.0}, "allowed loss"),
        ({"seed": -1}, "seed from 0"),
        ({"seed": 1.5}, "seed to be int"),
        ({"device": "quantum"}, "available device"),
        ({"dtype": "int8"}, "dtype among"),
        ({"model": " "}, "name of a model"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        Parameters.of(values)


def test_parameters_as_a_notebook_has_them():
    told = Parameters.of({"kinds": ["code"], "ratios": [0.2], "minutes": 3, "against": None})
    assert (told.kinds, told.ratios, told.minutes, told.against) == (("code",), (0.2,), 3.0, "")
