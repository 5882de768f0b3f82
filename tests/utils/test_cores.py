"""How many cores a process may use, in a container and outside."""

from __future__ import annotations

import os

import pytest

from comp_lib.utils import machine

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, 8), ("max 100000\n", 8), ("250000 100000\n", 2), ("50000 100000\n", 1), ("9900000 100000\n", 8)],
)
def test_a_container_may_have_fewer_cores_than_its_machine(tmp_path, monkeypatch, limit, expected):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    if limit is not None:
        (tmp_path / "cpu.max").write_text(limit)
    assert machine.cores() == expected
