"""One run on many machines: the bytes are those of its shards, whoever computes, dies or goes away."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import dask
import forks
import pytest
import torch
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context
from safetensors.torch import load_file
from test_prune_to import SETTINGS, Killed, content, opened, saved, tokens
from typer.testing import CliRunner

from comp_lib.cli.app import app
from comp_lib.errors import InputError
from comp_lib.prune_layer import LayerPruner
from comp_lib.scale import on_workers
from comp_lib.scale import shards as shards_module
from comp_lib.scale.journal import partial_folder
from comp_lib.scale.machines import Machines
from comp_lib.scale.prune_to import Means, prune_to
from comp_lib.settings import Settings
from comp_lib.system import scheduler

SHARDS = 5
SELF = Settings(ratio=0.2, multiple=4, widths="measured", layers=0)


def cluster(workers, processes=True, **options):
    place = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tcp://"}
    quiet = {"memory_limit": None, "silence_logs": logging.CRITICAL}
    return LocalCluster(n_workers=workers, threads_per_worker=1, processes=processes, **place, **quiet, **options)


@pytest.fixture(scope="module", autouse=True)
def lasting():
    """Dask takes a worker that was killed out of a LocalCluster after a while, though another has its place.

    Workers are forked from a process that has their imports behind it, where that is safe.
    """
    changes = {"distributed.deploy.lost-worker-timeout": "1h"}
    if sys.platform == "linux":
        changes["distributed.worker.multiprocessing-method"] = "forkserver"
    with dask.config.set(changes):
        if sys.platform == "linux":
            get_mp_context()  # where Dask says, once, what to import
            multiprocessing.set_forkserver_preload(["distributed", *forks.MODULES])
        yield


@pytest.fixture(scope="module")
def two():
    with cluster(2) as found:
        yield found


@pytest.fixture(scope="module")
def one():
    with cluster(1) as found:
        yield found


@pytest.fixture(scope="module")
def parent_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "parent")[0]


@pytest.fixture
def run(parent_folder, tokenizer):
    """A run on a cluster, or without one."""

    def carried(out, found=None, settings=SETTINGS, shards=SHARDS, **hears):
        address = found if found is None or isinstance(found, str) else found.scheduler_address
        machines = None if address is None else Machines(address, shards)
        means = Means(machines, **hears)
        return prune_to(out, opened(parent_folder), tokenizer, tokens(8), settings, means=means)

    return carried


@pytest.fixture(scope="module")
def calm(two, parent_folder, tokenizer, tmp_path_factory):
    """What a run in SHARDS on two workers gives that nobody disturbs."""
    out = tmp_path_factory.mktemp("calm") / "small"
    machines = Machines(two.scheduler_address, SHARDS)
    prune_to(out, opened(parent_folder), tokenizer, tokens(8), SETTINGS, means=Means(machines))
    return content(out)


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("settings", [SETTINGS, SELF], ids=["dense, a layer dropped", "self, measured widths"])
def test_one_worker_two_workers_and_one_process(settings, run, one, two, tmp_path):
    shared = run(tmp_path / "two" / "small", two, settings)
    run(tmp_path / "one" / "small", one, settings)
    alone = run(tmp_path / "alone" / "small", None, settings)
    assert content(tmp_path / "one" / "small") == content(tmp_path / "two" / "small")
    assert shared.plan == alone.plan and (settings is SETTINGS or len(set(alone.plan.neurons)) > 1)
    ours, theirs = weights(tmp_path / "two" / "small"), weights(tmp_path / "alone" / "small")
    assert any(not torch.equal(ours[name], value) for name, value in theirs.items())  # the sums were added otherwise
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-5, msg=name)
    assert alone.report.least and not shared.report.least  # whose seconds are mostly of other machines
    for mine, other in zip(shared.report.layers, alone.report.layers, strict=True):
        assert mine.error == pytest.approx(other.error, rel=1e-4) and mine.ridge == other.ridge


def pids(found, workers):
    """Of the workers, once there are so many."""
    with Client(found, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)
        return sorted(client.run(os.getpid).values())


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("where", ["between layers", "between the steps of a layer"])
def test_a_worker_that_dies_changes_no_bit(workers, where, run, calm, request, tmp_path, monkeypatch):
    """Of two, the other computes again what it held; of one, another takes its place, and the layer begins anew."""
    found, killed, begun = request.getfixturevalue(("one", "two")[workers - 1]), [], []
    alive = pids(found, workers)

    def kill():
        if not killed:
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    def observe(what, done, total, report=None):
        if where == "between layers" and what == "pruning":  # the first is finished, the last not begun
            kill()

    choose, make = LayerPruner._choose, LayerPruner.__init__

    def chosen(self, dense, keep, fixed):
        if where != "between layers" and len(dense.weight) == 48:  # of the MLP: the attention is done
            kill()
        return choose(self, dense, keep, fixed)

    def made(self, *arguments):
        begun.append(1)
        make(self, *arguments)

    monkeypatch.setattr(shards_module, "GLANCE", 0.2 if workers == 1 else 60.0)
    monkeypatch.setattr(LayerPruner, "_choose", chosen)
    monkeypatch.setattr(LayerPruner, "__init__", made)
    run(tmp_path / "small", found, progress=observe)
    assert killed and len(begun) == 3 - workers and content(tmp_path / "small") == calm


def stopping(layer):
    def observe(what, done, total, report=None):
        if report is not None and report.layer >= layer:
            raise Killed

    return observe


def test_a_run_that_is_cut_off_goes_on_with_other_workers(run, calm, one, two, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path / "small", two, progress=stopping(0))
    for wrong, words in ((SHARDS + 1, "shards was 5, is 6"), (None, "shards was 5, is null")):
        with pytest.raises(InputError, match=words):
            run(tmp_path / "small", None if wrong is None else two, shards=wrong or SHARDS)
    run(tmp_path / "small", one)
    assert content(tmp_path / "small") == calm


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(scheduler, "PATIENCE", 1.0)
    monkeypatch.setattr(scheduler, "CONNECT", 2.0)
    monkeypatch.setattr(shards_module, "GLANCE", 0.2)


@pytest.mark.parametrize("gone", ["scheduler", "workers"])
@pytest.mark.usefixtures("impatient")
def test_a_cluster_that_is_gone_is_said_in_a_line_and_the_run_goes_on_elsewhere(gone, run, calm, two, tmp_path):
    found = cluster(1, processes=False)

    def observe(what, done, total, report=None):
        if what == "pruning":
            found.close() if gone == "scheduler" else found.scale(0)

    words = "a Dask scheduler at" if gone == "scheduler" else "workers at"
    with found, pytest.raises(InputError, match=f"expected {words}.*the same command goes on") as refusal:
        run(tmp_path / "small", found, progress=observe)
    assert "\n" not in str(refusal.value) and partial_folder(tmp_path / "small").is_dir()
    run(tmp_path / "small", two)
    assert content(tmp_path / "small") == calm


def test_a_scheduler_that_comes_back_is_waited_for(run, calm, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "PATIENCE", 60.0)
    found, seen = [cluster(1, processes=False)], []
    address = found[0].scheduler_address

    def observe(what, done, total, report=None):
        if report is not None:
            seen.append(report.layer)
        if len(seen) == len(found) == 1:
            found[0].close()
            found.append(cluster(1, processes=False, scheduler_port=int(address.rpartition(":")[2])))

    try:
        run(tmp_path / "small", address, progress=observe)
    finally:
        found[-1].close()
    assert len(found) == 2 and len(seen) == 2  # no layer was done twice
    assert content(tmp_path / "small") == calm


def test_a_cluster_that_is_lost_again_and_again_is_given_up(run, tmp_path, one, monkeypatch):
    def lost(*arguments):
        raise shards_module.Gone("in a test")

    monkeypatch.setattr(shards_module.Shards, "sums", lost)
    with pytest.raises(InputError, match="3 losses without a layer done .in a test.*the same command goes on"):
        run(tmp_path / "small", one)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_not_taken_for_a_lost_cluster(run, tmp_path, one, small_disk):
    with small_disk(20_000), pytest.raises(InputError, match="expected to write to.*goes on"):
        run(tmp_path / "small", one)


def test_what_cannot_be_done_is_refused_before_any_work(run, one, tmp_path, monkeypatch):
    def refused(words, found=one, **options):
        with pytest.raises(InputError, match=words):
            run(tmp_path / "small", found, **options)
        assert not list(tmp_path.iterdir())

    refused("1 to 8 shards of 8", shards=9)
    refused("1 to 8 shards of 8", shards=0)
    refused("needs the whole model", settings=Settings(method="llm-pruner", recovery="none"))
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        patch.setattr("torch.cuda.device_count", lambda: 2)
        refused("cpu or cuda with a cluster, got --device cuda:1", settings=replace(SETTINGS, device="cuda:1"))
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "CONNECT", 0.5)
        refused("a Dask scheduler at 'tcp://127.0.0.1:1'", "tcp://127.0.0.1:1")
        with cluster(0, processes=False) as empty:
            refused(f"workers at {empty.scheduler_address}", empty)
    with monkeypatch.context() as patch:
        patch.setattr(Client, "run_on_scheduler", lambda client, function: "0.0.1")
        refused(f"comp_lib {on_workers.version()} beside the scheduler, got 0.0.1", one)
    with monkeypatch.context() as patch:
        patch.setattr("comp_lib.system.hashes.of_code", lambda *rooms: "another formula")
        refused("got from tcp://127.0.0.1:.*code .*, not another formula on", one)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find(name))
    refused(r"comp-lib\[distributed\]", one)


def test_a_worker_with_other_code_that_joins_later_is_named(run, one, tmp_path, monkeypatch):
    monkeypatch.setattr("comp_lib.scale.machines.check_workers", lambda client, device: None)  # it was not there yet
    monkeypatch.setattr("comp_lib.system.hashes.of_code", lambda *rooms: "another formula")
    with pytest.raises(InputError, match="with this comp_lib and torch, got code .*, not another formula on"):
        run(tmp_path / "small", one)


def test_the_command(parent, two, tmp_path):
    small = ["--sequences", "8", "--length", "32", "--multiple", "4", "--evaluate", "none", "--calibration", "shipped"]
    call = ["prune", str(parent), "--out", str(tmp_path / "small"), *small, "--scheduler", two.scheduler_address]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "carried in 8 shards by a cluster" in (tmp_path / "small" / "README.md").read_text("utf-8")
    for more, words in (
        (["--shards", "9"], "1 to 8 shards"),
        (["--method", "llm-pruner"], "got --scheduler and the method llm-pruner"),
        (["--search", "2"], "got --scheduler and a search"),
        (["--budget", "latency=0.7"], "got --scheduler and a budget in time"),
    ):
        done = CliRunner().invoke(app, [*call, "--overwrite", *more])
        assert done.exit_code == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.output


def test_tasks_that_dask_leaves_lying_are_noticed():
    """Those of a worker that died when it was the last: others come, and do not get them."""
    ours, theirs = SimpleNamespace(key="sums-ours1"), SimpleNamespace(key="sums-theirs1")
    for workers, running, lying, given_up in (
        ({}, set(), [ours], True),
        ({}, set(), [], True),
        ({"tcp://a:1": 1}, {1}, [], False),
        ({"tcp://a:1": 1}, {1}, [theirs], False),
        ({"tcp://a:1": 1}, set(), [ours], False),  # paused, for want of memory: it will go on
        ({"tcp://a:1": 1}, {1}, [theirs, ours], True),
    ):
        scheduler = SimpleNamespace(workers=workers, running=running, unrunnable=lying)
        assert on_workers.given_up("ours", scheduler) is given_up, (workers, running, lying)
