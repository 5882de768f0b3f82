"""Who measures the runs of a grid: processes here, side by side, and the workers of a Dask cluster.

Most runs are stand-ins that answer at once, or wait for a file to go away, so that "in the middle" is a place
and not a time.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from command import run as command
from rows import ANSWER

from comp_lib.reports.comparison import cluster
from comp_lib.reports.comparison import grid as module
from comp_lib.reports.comparison.grid import Grid, read_rows, run
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow

METHODS = ("comp", "random", "magnitude", "wanda-sp")
SIZES = {
    "seeds": 1,
    "sequences": (3,),
    "length": 24,
    "window_count": 3,
    "window_length": 40,
    "changes": {"multiple": 4},
}
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


def test_a_run_that_dies_leaves_a_row_that_says_why_and_is_tried_again(grid, tmp_path, box):
    box.order("kill", "random")
    box.order("fail", "magnitude")
    rows = run(grid, tmp_path / "out").set_index("method")
    assert list(rows.status[list(METHODS)]) == ["ok", "failed", "failed", "ok"]
    assert rows.message["random"] == "the process was killed by SIGKILL"
    assert rows.message["magnitude"] == "MemoryError: no room"
    assert rows.message.isna()["comp"]
    assert rows.increase.isna()["random"]
    assert rows.increase["comp"] == 0.5

    box.lift("kill", "random")
    rows = run(grid, tmp_path / "out", workers=2)
    assert list(rows.method) == list(METHODS)
    assert list(rows.status) == ["ok", "ok", "failed", "ok"]
    assert [box.count(name) for name in METHODS] == [1, 2, 2, 1]  # a row that is there is not measured again
    assert len(read_rows(tmp_path / "out" / "rows.csv")) == len(METHODS)


def test_runs_go_side_by_side_and_share_the_cores(grid, tmp_path, box, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "cores", lambda: 6)
    box.order("hold", "comp")
    lifted = []

    def progress(label, finished, total):
        if finished == 3:  # all others have passed the one that waits
            until(lambda: box.count("comp"))
            lifted.append(sorted(read_rows(tmp_path / "out" / "rows.csv").method))
            box.lift("hold", "comp")

    rows = run(grid, tmp_path / "out", progress, workers=2)
    assert list(rows.method) == list(METHODS)  # in the order of the grid all the same
    assert set(rows.status) == {"ok"}
    assert lifted == [sorted(set(METHODS) - {"comp"})]  # and written as they came
    assert {threads for *_, threads in box.started()} == {"3"}


SCRIPT = """
import os, sys
from comp_lib.reports.comparison import cluster
from comp_lib.reports.comparison.grid import Grid, run
cluster.COMMAND = (sys.executable, "-S", "-c", {stand_in!r})
os.setsid()
print(os.getpid(), flush=True)
grid = Grid({model!r}, (0.2,), {methods!r}, **{sizes!r})
run(grid, {out!r}, workers=3)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a signal of POSIX")
def test_an_interrupted_grid_keeps_its_rows_and_ends_its_processes(python, grid, tmp_path, box):
    """Ctrl-C reaches all that the command has started."""
    script = SCRIPT.format(
        stand_in=STAND_IN, model=grid.model, methods=METHODS, sizes=SIZES, out=str(tmp_path / "out")
    )
    box.order("hold", "random", "magnitude", "wanda-sp")
    running = subprocess.Popen([*python, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    number = int(running.stdout.readline())
    until(lambda: len(box.started()) == 4 and len(read_rows(tmp_path / "out" / "rows.csv")) == 1)
    os.killpg(number, signal.SIGINT)
    assert b"KeyboardInterrupt" in running.communicate()[1]
    assert list(read_rows(tmp_path / "out" / "rows.csv").method) == ["comp"]
    assert not [process for _, process, _ in box.started() if psutil.pid_exists(int(process))]
    box.lift("hold", "random", "magnitude", "wanda-sp")
    assert list(run(grid, tmp_path / "out").status) == ["ok"] * 4
    assert box.count("comp") == 1


# --- on a cluster -------------------------------------------------------------------------------------------


@pytest.fixture
def dask(monkeypatch):
    """A cluster on loopback, of threads in this process; a run is a process of its own in any case."""
    distributed = pytest.importorskip("distributed")
    timeouts = importlib.import_module("dask").config.config["distributed"]["comm"]["timeouts"]
    monkeypatch.setitem(timeouts, "connect", 1)
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        protocol="tcp://",
        dashboard_address="127.0.0.1:0",
        processes=False,
        silence_logs=logging.CRITICAL,
    ) as cluster_of_threads:
        yield cluster_of_threads


def test_the_same_grid_on_dask(grid, tmp_path, box, dask):
    box.order("fail", "random")
    rows = run(grid, tmp_path / "out", scheduler=dask.scheduler_address)
    assert list(rows.method) == list(METHODS)
    assert list(rows.status) == ["ok", "failed", "ok", "ok"]
    assert rows.message[1] == "MemoryError: no room"


def test_a_cluster_that_goes_away_costs_no_row_that_is_done(grid, tmp_path, box, dask):
    box.order("hold", "magnitude", "wanda-sp")

    def progress(label, finished, total):
        if finished == 2:
            until(lambda: box.count("magnitude") and box.count("wanda-sp"))
            dask.scheduler.loop.add_callback(dask.scheduler.close)
            box.lift("hold", "magnitude", "wanda-sp")

    rows = run(grid, tmp_path / "out", progress, scheduler=dask.scheduler_address)
    assert list(rows.status[:2]) == ["ok", "ok"]
    assert "failed" in set(rows.status)
    assert set(run(grid, tmp_path / "out").status) == {"ok"}
    assert box.count("comp") == 1


def test_compare_on_a_cluster_as_the_page_says(python, parent, tmp_path, dask, monkeypatch):
    # so that runs have their imports
    monkeypatch.setattr(cluster, "COMMAND", (*python, *cluster.COMMAND[1:]))
    monkeypatch.chdir(parent.parent)  # a relative path holds on the workers too
    options = ["--ratios", 0.2, "--methods", "comp,random", "--seeds", 1, "--sequences", 3, "--length", 24]
    options += [
        "--multiple",
        4,
        "--window-count",
        3,
        "--window-length",
        40,
        "--scheduler",
        dask.scheduler_address,
    ]
    result = command("compare", parent.name, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    rows = read_rows(tmp_path / "out" / "rows.csv")
    assert sorted(rows.method) == ["comp", "random"]
    assert set(rows.status) == {"ok"}
    assert rows.model[0] == parent.name


# --- refusals -----------------------------------------------------------------------------------------------


def test_a_run_imports_nothing_from_the_folder_where_it_works(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('planted')")  # which torch imports
    outcome = cluster.measure_in_process({"model": "nowhere"}, str(tmp_path))
    assert outcome["status"] == "failed"
    assert outcome["message"]
    assert "planted" not in outcome["message"]


def test_a_scheduler_that_is_not_there_is_refused(grid, tmp_path, box, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "CONNECTION_TIMEOUT", 0.5)
    for address in ("tcp://127.0.0.1:1", "nowhere"):
        with pytest.raises(InputError, match="expected a Dask scheduler, got.*comp-lib.distributed"):
            run(grid, tmp_path / "out", scheduler=address)
    assert not box.started()
