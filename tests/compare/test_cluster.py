"""Who measures the runs of a grid: processes here, side by side, and the workers of a Dask cluster.

Most runs are stand-ins that answer at once, or wait for a file to go away, so that "in the middle" is a place and not
a time.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import time
from functools import partial

import psutil
import pytest
from command import run as command

from comp_lib.compare import cluster
from comp_lib.compare.cluster import choose, here, one_by_one, remote
from comp_lib.compare.grid import MEASURED, TIMED, Grid, read_rows, run
from comp_lib.errors import InputError
from comp_lib.settings import Settings
from comp_lib.system import machine

METHODS = ("comp", "random", "magnitude", "wanda-sp")
SIZES = {"seeds": 1, "sequences": (3,), "length": 24, "windows": 3, "window": 40, "settings": Settings(multiple=4)}
ANSWER = dict.fromkeys((*MEASURED, *TIMED), 0.5) | {"parameters": 7, "threads": 2, "versions": "0"}
STAND_IN = f"""
import json, os, pathlib, signal, sys, time
name, box = json.load(sys.stdin)["settings"]["method"], pathlib.Path(os.environ["BOX"])
with open(box / "started", "a") as file:
    file.write(f"{{name}} {{os.getpid()}} {{os.environ.get('OMP_NUM_THREADS')}}\\n")
while (box / f"hold-{{name}}").exists():
    time.sleep(0.02)
if (box / f"kill-{{name}}").exists():
    os.kill(os.getpid(), signal.SIGKILL)
if (box / f"fail-{{name}}").exists():
    sys.exit("MemoryError: no room")
print('words of a library')
print(json.dumps({ANSWER!r}))
"""


@pytest.fixture
def grid(parent):
    return Grid(str(parent), (0.2,), METHODS, **SIZES)


class Box:
    """A folder that tells stand-ins what to do, and in which they tell what they did."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def order(self, word, *names):
        for name in names:
            (self.folder / f"{word}-{name}").touch()

    def lift(self, word, *names):
        for name in names:
            (self.folder / f"{word}-{name}").unlink()

    def started(self):
        """(method, process, threads) of all that were ever started."""
        file = self.folder / "started"
        return [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []

    def count(self, name):
        return sum(method == name for method, *_ in self.started())


@pytest.fixture
def box(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "COMMAND", (sys.executable, "-S", "-c", STAND_IN))
    monkeypatch.setenv("BOX", str(tmp_path / "box"))
    return Box(tmp_path / "box")


def until(condition):
    """Wait for what must come; pytest's own timeout ends it if it does not."""
    while not condition():
        time.sleep(0.02)


@pytest.mark.parametrize("engine", [one_by_one, partial(here, 2)], ids=["one by one", "two at a time"])
def test_a_run_that_dies_leaves_a_row_that_says_why_and_is_tried_again(grid, tmp_path, box, engine):
    box.order("kill", "random")
    box.order("fail", "magnitude")
    rows = run(grid, tmp_path / "out", engine=engine).set_index("method")
    assert list(rows.status[list(METHODS)]) == ["ok", "failed", "failed", "ok"]
    assert rows.message["random"] == "the process was killed by SIGKILL"
    assert rows.message["magnitude"] == "MemoryError: no room" and rows.message.isna()["comp"]
    assert rows.increase.isna()["random"] and rows.increase["comp"] == 0.5

    box.lift("kill", "random")
    rows = run(grid, tmp_path / "out", engine=engine)
    assert list(rows.method) == list(METHODS) and list(rows.status) == ["ok", "ok", "failed", "ok"]
    assert [box.count(name) for name in METHODS] == [1, 2, 2, 1]  # a row that is there is not measured again
    assert len(read_rows(tmp_path / "out" / "rows.csv")) == len(METHODS)


def test_runs_go_side_by_side_and_share_the_cores(grid, tmp_path, box, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: 6)
    box.order("hold", "comp")
    lifted = []

    def progress(what, done, total):
        if done == 3:  # all others have passed the one that waits
            until(lambda: box.count("comp"))
            lifted.append(sorted(read_rows(tmp_path / "out" / "rows.csv").method))
            box.lift("hold", "comp")

    rows = run(grid, tmp_path / "out", progress, choose(workers=2))
    assert list(rows.method) == list(METHODS) and set(rows.status) == {"ok"}  # in the order of the grid all the same
    assert lifted == [sorted(set(METHODS) - {"comp"})]  # and written as they came
    assert {threads for *_, threads in box.started()} == {"3"}


@pytest.mark.skipif(os.name == "nt", reason="sends a signal of POSIX")
def test_an_interrupted_grid_keeps_its_rows_and_ends_its_processes(grid, tmp_path, box):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started pytest to ignore it
    box.order("hold", "random", "magnitude")

    def progress(what, done, total):
        if done == 2:  # comp and wanda-sp
            until(lambda: box.count("random") and box.count("magnitude"))
            signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            run(grid, tmp_path / "out", progress, partial(here, 3))
    finally:
        signal.signal(signal.SIGINT, before)
    assert set(read_rows(tmp_path / "out" / "rows.csv").method) == {"comp", "wanda-sp"}
    assert not [process for _, process, _ in box.started() if psutil.pid_exists(int(process))]
    box.lift("hold", "random", "magnitude")
    assert list(run(grid, tmp_path / "out").status) == ["ok"] * 4 and box.count("comp") == 1


# --- on a cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture
def dask():
    """A cluster on loopback, of threads in this process: what it is sent is a process of its own in any case."""
    distributed = pytest.importorskip("distributed")
    place = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": "127.0.0.1:0", "processes": False}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=logging.CRITICAL, **place) as found:
        yield found


def test_the_same_grid_on_dask(grid, tmp_path, box, dask):
    box.order("fail", "random")
    rows = run(grid, tmp_path / "out", engine=choose(scheduler=dask.scheduler_address))
    assert list(rows.method) == list(METHODS) and list(rows.status) == ["ok", "failed", "ok", "ok"]
    assert rows.message[1] == "MemoryError: no room"


def test_a_cluster_that_goes_away_costs_no_row_that_is_done(grid, tmp_path, box, dask, monkeypatch):
    import distributed

    def one_and_no_more(futures, as_completed=distributed.as_completed):
        yield next(as_completed(futures))
        raise ConnectionError("the scheduler is gone")

    monkeypatch.setattr(distributed, "as_completed", one_and_no_more)
    with pytest.raises(InputError, match="ConnectionError.*the same command goes on from the rows that are done"):
        run(grid, tmp_path / "out", engine=partial(remote, dask.scheduler_address))
    assert list(read_rows(tmp_path / "out" / "rows.csv").status) == ["ok"]


def test_compare_on_a_cluster_as_the_page_says(python, parent, tmp_path, dask, monkeypatch):
    monkeypatch.setattr(cluster, "COMMAND", (*python, *cluster.COMMAND[1:]))  # so that runs have their imports
    monkeypatch.chdir(parent.parent)  # a relative path holds on the workers too
    options = ["--ratios", 0.2, "--methods", "comp,random", "--seeds", 1, "--sequences", 3, "--length", 24]
    options += ["--multiple", 4, "--windows", 3, "--window", 40, "--scheduler", dask.scheduler_address]
    done = command("compare", parent.name, "--out", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    rows = read_rows(tmp_path / "out" / "rows.csv")
    assert sorted(rows.method) == ["comp", "random"] and set(rows.status) == {"ok"} and rows.model[0] == parent.name


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_had_is_refused(box, monkeypatch):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="got both"):
        choose(workers=2, scheduler="tcp://a:1")
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    for address in ("tcp://127.0.0.1:1", "nowhere"):
        with pytest.raises(InputError, match="expected a Dask scheduler with workers at"):
            list(remote(address, {"key": {}}))
    assert not box.started()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else found(name))
    choose(workers=2)
    with pytest.raises(InputError, match=r"comp-lib\[distributed\]"):
        choose(scheduler="tcp://127.0.0.1:8786")
