"""Grids on dask.distributed: whatever dies, each row comes, and comes once.

The cells of most tests are stand-ins that answer at once, or wait for a file to go away, so that "in the middle" is a
place and not a time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from filelock import BaseFileLock
from typer.testing import CliRunner

from comp_lib.cli.app import app
from comp_lib.compare import cluster
from comp_lib.compare.cluster import AGAIN, ATTEMPTS, choose, here, one_by_one, remote
from comp_lib.compare.grid import DETERMINED, TIMED, Grid, read_rows, run
from comp_lib.compare.one_run import RunRequest
from comp_lib.errors import InputError
from comp_lib.settings import Settings
from comp_lib.system import hashes, machine
from comp_lib.system.processes import ProcessError
from comp_lib.system.scheduler import connected
from course import start as notebook

PAGE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text("utf-8")
METHODS = ("comp", "random", "magnitude", "wanda-sp")
SIZES = {"seeds": 1, "sequences": (3,), "length": 24, "windows": 3, "window": 40, "settings": Settings(multiple=4)}
ANSWER = {name: 0.5 for name in (*DETERMINED[15:], *TIMED)} | {
    "parameters": 7,
    "threads": 2,
    "versions": "0",
    "kinds": None,
}
STAND_IN = f"""
import json, os, pathlib, signal, sys, time
job, box = json.loads(sys.stdin.readline()), pathlib.Path(os.environ["BOX"])
name = "check" if job["check"] else job["run"]["settings"]["method"]
with open(box / "started", "a") as file:
    file.write(f"{{name}} {{os.getppid()}} {{os.environ.get('OMP_NUM_THREADS')}}\\n")
if (box / f"interrupt-{{name}}").exists():
    while not ((rows := pathlib.Path(os.environ["ROWS"])).exists() and ",comp," in rows.read_text()):
        time.sleep(0.02)
    os.kill(os.getppid(), signal.SIGINT)
while any((box / f"{{word}}-{{name}}").exists() for word in ("hold", "interrupt")):
    time.sleep(0.02)
if (box / f"kill-{{name}}").exists():
    os.kill(os.getpid(), signal.SIGKILL)
if (box / f"refuse-{{name}}").exists():
    print(json.dumps({{"refused": "expected another text"}}))
    sys.exit()
if (box / f"fail-{{name}}").exists():
    sys.exit("MemoryError: no room")
print(json.dumps({{}} if job["check"] else {ANSWER!r}))
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
        """(method, process that waits for it, threads) of all that were ever started."""
        file = self.folder / "started"
        return [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []

    def count(self, name):
        return sum(method == name for method, *_ in self.started())


@pytest.fixture
def box(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "MODULE", ("-S", "-c", STAND_IN))
    monkeypatch.setenv("BOX", str(tmp_path / "box"))
    return Box(tmp_path / "box")


def until(condition):
    """Wait for what must come; pytest's own timeout ends it if it does not."""
    while not condition():
        time.sleep(0.02)


# --- on this machine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [one_by_one, partial(here, 2)], ids=["one by one", "two at a time"])
def test_a_cell_that_fails_is_tried_three_times_and_a_refusal_once(grid, tmp_path, box, engine):
    box.order("kill", "random")
    box.order("fail", "magnitude")
    box.order("refuse", "wanda-sp")
    rows = run(grid, tmp_path / "out", engine=engine).set_index("method")
    assert list(rows.status[list(METHODS)]) == ["ok", "failed", "failed", "failed"]
    assert rows.message["random"] == "the process was killed by SIGKILL"
    assert rows.message["magnitude"] == "MemoryError: no room"
    assert rows.message["wanda-sp"] == "InputError: expected another text"
    assert [box.count(name) for name in METHODS] == [1, ATTEMPTS, ATTEMPTS, 1]
    assert len(list((tmp_path / "out").glob("failed-*.log"))) == 3

    box.lift("kill", "random")
    rows = run(grid, tmp_path / "out", engine=engine).set_index("method")
    assert list(rows.status[list(METHODS)]) == ["ok", "ok", "failed", "failed"]
    assert box.count("comp") == 1  # a row that is there is not measured again
    assert len(read_rows(tmp_path / "out" / "rows.csv")) == len(METHODS)


def test_cells_run_side_by_side_and_share_the_cores(grid, tmp_path, box, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: 6)
    engine = choose(workers=2)
    box.order("hold", "comp")
    lifted = []

    def progress(what, done, total):
        if done == 3:  # all others have passed the one that waits
            until(lambda: box.count("comp"))
            lifted.append(sorted(read_rows(tmp_path / "out" / "rows.csv").method))
            box.lift("hold", "comp")

    rows = run(grid, tmp_path / "out", progress, engine)
    assert list(rows.method) == list(METHODS) and set(rows.status) == {"ok"}  # in the order of the grid all the same
    assert lifted == [sorted(set(METHODS) - {"comp"})]  # and written as they came
    assert {threads for *_, threads in box.started()} == {"3"}


def test_nothing_listens_while_runs_are_measured(grid, tmp_path, box):
    def listening():
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        each = {place for process in family for place in process.net_connections("all") if place.status == "LISTEN"}
        return each, [place for process in family for place in process.net_connections("unix") if place.laddr]

    before, during, two = listening(), [], ("random", "magnitude")
    box.order("hold", *two)  # so that no process ends while it is looked at

    def progress(what, done, total):
        if done and not during:
            until(lambda: all(map(box.count, two)))
            during.append(listening())
            box.lift("hold", *two)

    rows = run(grid, tmp_path / "out", progress, choose(workers=2))
    assert set(rows.status) == {"ok"} and during == [before]


@pytest.fixture
def interruptible():
    """Ctrl-C works here, even where a shell started pytest in the background, which is to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="sends a signal of POSIX")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("engine", [one_by_one, partial(here, 2)], ids=["one by one", "two at a time"])
def test_an_interrupted_grid_keeps_its_rows_and_ends_its_processes(grid, tmp_path, box, engine, monkeypatch):
    monkeypatch.setenv("ROWS", str(tmp_path / "out" / "rows.csv"))
    box.order("interrupt", "magnitude")  # in whose midst Ctrl-C is pressed, once comp's row is there
    box.order("hold", "random")  # so that the other worker is busy too
    if engine is one_by_one:
        box.lift("hold", "random")
    with pytest.raises(KeyboardInterrupt):
        run(grid, tmp_path / "out", engine=engine)
    rows = read_rows(tmp_path / "out" / "rows.csv")
    assert {"comp"} <= set(rows.method) <= {"comp", "random"} and set(rows.status) == {"ok"}
    assert not cluster._running  # Dask alone would wait for them 30 s, and leave them
    box.lift("interrupt", "magnitude")
    box.lift("hold", *(["random"] if engine is not one_by_one else []))
    rows = run(grid, tmp_path / "out", engine=engine)
    assert list(rows.status) == ["ok"] * len(METHODS) and box.count("comp") == 1


def test_no_lock_is_deleted_while_rows_are_written(grid, tmp_path, box, monkeypatch):
    """A Ctrl-C that comes while Python deletes a lock is lost: what `__del__` raises is ignored."""
    deleted, seen = [], []
    monkeypatch.setattr(BaseFileLock, "__del__", lambda lock: deleted.append(lock.lock_file))
    run(grid, tmp_path / "out", lambda what, done, total: seen.append(len(deleted)))
    assert seen == [0] * 5 and deleted == [str(tmp_path / "out" / ".rows.csv.lock")]


def test_a_notebook_shows_the_count(grid, tmp_path, box, monkeypatch):
    shown = []

    def display(markdown, display_id=False):
        shown.append(markdown.data)
        return SimpleNamespace(update=lambda markdown: shown.append(markdown.data))

    monkeypatch.setattr(notebook, "display", display)
    rows = notebook.run_grid(grid, tmp_path / "out", workers=2)
    assert set(rows.status) == {"ok"} and box.count("comp") == 1
    assert [words for words in shown if "cells" in words] == [f"{done} of 4 cells done" for done in range(5)]


def test_a_grid_that_is_done_starts_no_process(grid, tmp_path, box):
    run(grid, tmp_path / "out")
    started = box.started()
    assert set(run(grid, tmp_path / "out", engine=choose(workers=2)).status) == {"ok"}
    assert box.started() == started


# --- on a cluster -----------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """A cluster on loopback, started by the commands of docs/clusters.md."""

    def __init__(self, folder):
        self.folder, self.port, self.running = folder, free_port(), []
        self.address = f"tcp://127.0.0.1:{self.port}"

    def start(self, command, *more):
        assert command in PAGE  # with Dask's own port, which a test may not take
        words = command.replace("8786", str(self.port)).split()
        assert words.pop(0) == "dask"
        log = open(self.folder / f"{words[0]}-{len(self.running)}.log", "wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words, *more], cwd=self.folder, stdout=log, stderr=log
            )
        self.running.append(process)
        return process

    def scheduler(self):
        return self.start("dask scheduler --host 127.0.0.1 --port 8786", "--dashboard-address", "127.0.0.1:0")

    def workers(self, *more):
        return self.start("dask worker tcp://127.0.0.1:8786 --nworkers 2 --nthreads 1", *more)

    def end(self):
        for process in self.running:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(process.pid).children(recursive=True)
                for child in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path)
    yield found
    found.end()


@pytest.fixture
def stand_ins(processes, box, tmp_path):
    """A cluster of two workers whose cells are stand-ins; the second value starts two more."""
    preload = tmp_path / "preload.py"
    preload.write_text(f"from comp_lib.compare import cluster\ncluster.MODULE = ('-S', '-c', {STAND_IN!r})\n")
    processes.first = processes.scheduler()
    processes.more = lambda: processes.workers("--preload", str(preload))
    processes.more()
    return processes


class InBackground:
    """A grid that runs in a thread, whose rows the test reads meanwhile."""

    def __init__(self, grid, folder, address):
        self.path, self.found = folder / "rows.csv", None
        self.thread = threading.Thread(target=self._run, args=(grid, folder, partial(remote, address, print)))
        self.thread.start()

    def _run(self, *arguments):
        grid, folder, engine = arguments
        self.found = run(grid, folder, engine=engine)

    def rows(self):
        return read_rows(self.path)

    def result(self):
        self.thread.join()
        assert self.found is not None and not self.rows().key.duplicated().any()
        return self.found


def test_a_worker_that_dies_in_the_middle_costs_no_row(grid, tmp_path, box, stand_ins, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 60.0)
    box.order("hold", *METHODS)
    running = InBackground(grid, tmp_path / "out", stand_ins.address)
    until(lambda: len({waiting for method, waiting, _ in box.started() if method != "check"}) == 2)  # one on each
    victim_cell, victim, _ = next(entry for entry in box.started() if entry[0] != "check")
    os.kill(int(victim), signal.SIGKILL)
    box.lift("hold", *METHODS)
    rows = running.result()
    assert list(rows.method) == list(METHODS) and list(rows.status) == ["ok"] * len(METHODS)
    assert box.count(victim_cell) == 2 and sum(map(box.count, METHODS)) == len(METHODS) + 1
    assert box.count("check") == 1  # both workers are on one machine


def test_a_scheduler_that_restarts_costs_no_row(grid, tmp_path, box, stand_ins, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 60.0)
    box.order("hold", *METHODS[1:])
    running = InBackground(grid, tmp_path / "out", stand_ins.address)
    until(lambda: len(running.rows()) == 1 and sum(map(box.count, METHODS[1:])) == 2)  # whichever two Dask has sent
    stand_ins.first.kill()
    stand_ins.first.wait()
    stand_ins.scheduler()
    stand_ins.more()
    box.lift("hold", *METHODS[1:])
    rows = running.result()
    assert list(rows.method) == list(METHODS) and list(rows.status) == ["ok"] * len(METHODS)
    assert box.count("comp") == 1  # what had come back was not measured again
    assert all(box.count(name) >= 1 for name in METHODS)


def test_compare_on_a_cluster_started_as_the_readme_says(python, parent, tmp_path, processes, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 60.0)
    monkeypatch.chdir(parent.parent)  # the workers are elsewhere, so that a relative path must not travel
    assert "--scheduler tcp://127.0.0.1:8786" in PAGE
    processes.scheduler()
    preload = tmp_path / "preload.py"  # so that cells have their imports behind them
    preload.write_text(f"from comp_lib.compare import cluster\ncluster.MODULE = {(*python[1:], *cluster.MODULE)}\n")
    processes.workers("--preload", str(preload))
    arguments = [
        "compare",
        parent.name,
        "--out",
        str(tmp_path / "out"),
        "--ratios",
        "0.2",
        "--methods",
        "comp,random",
        "--seeds",
        "1",
        "--sequences",
        "3",
        "--length",
        "24",
        "--multiple",
        "4",
        "--windows",
        "3",
        "--window",
        "40",
        "--scheduler",
        processes.address,
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "dashboard: http://127.0.0.1:" in done.stderr and "comp + least-squares" in done.stdout
    rows = read_rows(tmp_path / "out" / "rows.csv").set_index("method")
    grid = Grid(str(parent), (0.2,), ("comp", "random"), **SIZES)
    contents = grid.contents()
    for planned in grid.runs():
        here = RunRequest(planned, contents).answer()
        row = rows.loc[planned.settings.method]
        for name in ("removed", "parameters", "dense_loss", "loss", "increase_low", "increase_high", "kl"):
            assert row[name] == pytest.approx(here[name], abs=1e-5), name


ROLES = ("scheduler", "worker", "client")


@pytest.fixture
def certified(tmp_path):
    """Dask's configuration of TLS, with a certificate that signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a test", "-days", "1"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    files = {f"{role}.{what}": file for role in ROLES for what, file in (("cert", certificate), ("key", key))}
    return {f"distributed.comm.tls.{name}": file for name, file in {"ca-file": certificate, **files}.items()}


def test_a_cluster_with_tls_takes_those_who_have_its_certificate(certified):
    import dask
    from distributed import LocalCluster, Security

    place = {"host": "127.0.0.1", "protocol": "tls://", "dashboard_address": "127.0.0.1:0", "processes": False}
    size = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": None, "silence_logs": logging.CRITICAL}
    with dask.config.set(certified), LocalCluster(security=Security(require_encryption=True), **place, **size) as found:
        address = found.scheduler_address
        with connected(address, 30.0, AGAIN) as client:
            assert address.startswith("tls://") and client.submit(os.getpid).result() == os.getpid()
        for other in (address, address.replace("tls", "tcp")):
            with dask.config.set(dict.fromkeys(certified)), pytest.raises(InputError, match="a Dask scheduler at"):
                with connected(other, 1.0, AGAIN):
                    pass


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_machine_that_lacks_what_the_grid_needs_is_named(grid, tmp_path):
    contents, planned = grid.contents(), next(grid.runs())
    assert RunRequest(planned, contents, check=True).answer() == {}
    for what in contents:
        with pytest.raises(InputError, match=f"the same {what} .* on {socket.gethostname()}"):
            RunRequest(planned, contents | {what: "other"}, check=True).answer()
    with pytest.raises(InputError, match="the same model"):
        RunRequest(planned, contents | {"model": "other"}).answer()  # a worker that came later was never asked
    gone = asdict(RunRequest(planned, contents, check=True))
    gone["run"]["calibration"] = str(tmp_path / "gone.txt")
    with pytest.raises(InputError, match="gone.txt"):
        RunRequest.from_message(gone).answer()


def test_a_machine_with_other_code_of_the_same_version_is_refused(grid, monkeypatch):
    request = RunRequest(next(grid.runs()), grid.contents(), check=True)
    monkeypatch.setattr(hashes, "of_code", lambda *rooms: "other")
    with pytest.raises(InputError, match=f"code {request.code}, as on the machine that asks, got other on"):
        request.answer()


def test_workers_are_asked_before_any_work(grid, tmp_path, box, stand_ins, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 60.0)
    box.order("refuse", "check")
    with pytest.raises(InputError, match="got from tcp://127.0.0.1:.*expected another text"):
        run(grid, tmp_path / "out", engine=partial(remote, stand_ins.address, print))
    assert [name for name, *_ in box.started()] == ["check"]
    assert len(read_rows(tmp_path / "out" / "rows.csv")) == 0


def test_what_cannot_be_had_is_refused(grid, tmp_path, box, processes, monkeypatch):
    from distributed import Client, LocalCluster

    for options, words in (
        ({"workers": 0}, "1 to 256 workers"),
        ({"workers": 10**6}, "1 to 256 workers"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "got both"),
    ):
        with pytest.raises(InputError, match=words):
            choose(**options)
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    for address in (processes.address, "nowhere", "tcp://127.0.0.1"):
        with pytest.raises(InputError, match="expected a Dask scheduler at"):
            list(remote(address, print, {"key": {}}))
        assert not [each for each in gc.get_objects() if type(each) is Client and each.status != "closed"]
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    place = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": "127.0.0.1:0", "processes": False}
    with LocalCluster(n_workers=0, silence_logs=logging.CRITICAL, **place) as empty:
        with pytest.raises(InputError, match=f"expected workers at .*{empty.scheduler_address}"):
            list(remote(empty.scheduler_address, print, {"key": {}}))
    assert not box.started()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else found(name))
    choose(workers=2)
    with pytest.raises(InputError, match=r"comp-lib\[distributed\]"):
        choose(scheduler="tcp://127.0.0.1:8786")


def test_an_error_survives_the_journey_from_its_worker():
    from distributed.protocol import deserialize, serialize

    error = ProcessError("in a word", "in many words", 3)
    back = deserialize(*serialize(error))
    assert (str(back), back.output, back.code) == (str(error), error.output, 3)


def test_a_worker_that_only_waits_stays_small():
    code = "import sys, comp_lib.compare.cluster; print({'torch', 'pandas', 'distributed'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
