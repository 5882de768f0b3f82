"""Seconds by phase, on a clock that the test moves."""

from __future__ import annotations

import threading

import pytest

from comp_lib.system import clock
from comp_lib.system.clock import listening, phase


@pytest.fixture
def time(monkeypatch):
    """Call it with seconds to let them pass."""
    now = [100.0]

    def go(seconds):
        now[0] += seconds

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    return go


def test_an_inner_phase_has_its_seconds_to_itself(time):
    with listening() as seconds:
        time(1.0)  # in no phase
        with phase("solve"):
            time(2.0)
            with phase("read"):
                time(4.0)
            time(8.0)
        with phase("read"):
            time(16.0)
    assert seconds == {"solve": 10.0, "read": 20.0}


def test_what_raises_ends_its_phase(time):
    with listening() as seconds:
        with pytest.raises(KeyError), phase("read"):
            time(1.0)
            raise KeyError
        with phase("solve"):
            time(2.0)
    assert seconds == {"read": 1.0, "solve": 2.0}


def test_nobody_listens_outside_and_in_other_threads(time):
    def work():
        with phase("read"):
            time(1.0)

    with listening() as seconds:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    work()
    assert seconds == {}


def test_a_run_in_a_run_has_its_own_clock(time):
    with listening() as outer, phase("planning"):
        time(1.0)
        with listening() as inner, phase("read"):
            time(2.0)
    assert inner == {"read": 2.0} and outer == {"planning": 3.0}
