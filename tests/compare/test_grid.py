"""The grid of a comparison: what it measures, that a kill costs nothing, and that failures are told and mended."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from typer.testing import CliRunner
from variants import build

from comp_lib.analysis.cost_frame import settings_for
from comp_lib.calibration.text import KINDS, load_text
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.cli.app import app
from comp_lib.compare import cluster
from comp_lib.compare import grid as compare
from comp_lib.compare.grid import COLUMNS, DETERMINED, Grid, read_rows, run
from comp_lib.compare.one_run import RunRequest, quality
from comp_lib.errors import InputError
from comp_lib.evaluation.confidence import bootstrap_interval
from comp_lib.evaluation.loss import evaluation_tokens, perplexity
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.system import hashes
from comp_lib.system.machine import peak_bytes

SIZES = ["--sequences", "3", "--length", "24", "--multiple", "4", "--windows", "3", "--window", "40"]
GRID = ["--ratios", "0.2", "--methods", "comp,random", "--seeds", "1", *SIZES]


@pytest.fixture
def grid(parent):
    return Grid(
        str(parent), (0.2,), ("comp", "random"), 1, (3,), length=24, windows=3, window=40, settings=Settings(multiple=4)
    )


def test_flap_goes_without_a_bias_where_the_family_has_no_room_for_one(grid, tokenizer, tmp_path):
    build("gemma3").save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    asked = replace(grid, methods=("comp", "flap"))
    gemma = replace(asked, model=str(tmp_path / "gemma"))
    assert [run.settings.recovery for run in asked.runs()] == ["least-squares", "bias"]
    assert [run.settings.recovery for run in gemma.runs()] == ["least-squares", "none"]
    assert {run.settings.recovery for run in replace(gemma, recovery="bias").runs()} == {"bias"}  # as asked
    assert settings_for(build("gemma3"), "flap", 0.2, 4).recovery == "none"
    assert settings_for(build("gqa"), "flap", 0.2, 4).recovery == "bias"


def keep(path, row):
    compare._keep(compare._lock(path), path, row)


def test_a_key_that_looks_like_a_number_stays_what_it_is(tmp_path):
    row = dict.fromkeys(COLUMNS) | {"key": "0123456789012345", "grid": "12e4567890123456", "status": "ok"}
    for seed in range(2):
        keep(tmp_path / "rows.csv", row | {"seed": seed})
    (read,) = read_rows(tmp_path / "rows.csv").to_dict("records")
    assert (read["key"], read["grid"], read["seed"]) == ("0123456789012345", "12e4567890123456", 1)


@pytest.fixture(scope="module")
def imported(python):
    """The process of a cell has its imports behind it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "MODULE", (*python[1:], *cluster.MODULE))
        yield


@pytest.fixture(scope="module")
def straight(parent, tmp_path_factory, imported):
    """The folder of a grid that ran from its start to its end, by the command line."""
    folder = tmp_path_factory.mktemp("straight")
    done = CliRunner().invoke(app, ["compare", *map(str, (parent, *GRID, "--out", folder))])
    assert done.exit_code == 0, done.stderr
    assert "comp + least-squares" in done.stdout and "increase.png" in done.stdout
    return folder


def fixed(folder):
    """What must not differ between two runs of one grid."""
    return read_rows(folder / "rows.csv")[list(DETERMINED)].sort_values("key", ignore_index=True)


# --- what a row says --------------------------------------------------------------------------------------------------


def test_a_row_is_what_was_measured(straight, parent):
    rows = read_rows(straight / "rows.csv").set_index("method")
    assert list(rows.reset_index()[list(COLUMNS)].columns) == list(COLUMNS) and (rows.status == "ok").all()
    assert set(rows.recovery["comp":"comp"]) == {"least-squares"} and rows.recovery["random"] == "none"
    model, tokenizer = load_model(parent)
    ids = calibration_tokens("calibration", tokenizer, sequences=3, length=24, seed=0)
    windows = evaluation_tokens(tokenizer, load_text("evaluation"), 40, 3)
    dense = perplexity(model, windows)
    for method, recovery in (("comp", "least-squares"), ("random", "none")):
        small = prune(model, ids, Settings(multiple=4, method=method, recovery=recovery)).model
        row, after = rows.loc[method], perplexity(small, windows)
        assert row.loss == pytest.approx(after.loss, abs=1e-5)
        assert row.dense_loss == pytest.approx(dense.loss, abs=1e-5)
        assert row.increase == pytest.approx(after.loss - dense.loss, abs=1e-5)
        assert row.increase_low <= row.increase <= row.increase_high
        kept, whole = (sum(p.numel() for p in m.model.layers.parameters()) for m in (small, model))
        assert row.removed == pytest.approx(1 - kept / whole, abs=1e-12) and row.removed >= 0.2
        assert row.parameters == small.num_parameters()
        assert json.loads(row.settings)["ratio"] == 0.2
        with torch.inference_mode():  # KL and agreement by brute force over all logits at once
            p, q = (m(input_ids=windows).logits[:, :-1].double().log_softmax(-1) for m in (model, small))
        assert row.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=1e-4)
        assert row.top1_agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()), abs=1e-6)
        assert (row[["seconds", "passes", "peak_megabytes", "decode_ms", "dense_decode_ms", "decode_ratio"]] > 0).all()
    assert str(parent) not in (straight / "rows.csv").read_text()


def test_quality_pairs_the_windows(tiny_llama):
    dense, small = tiny_llama(seed=0), tiny_llama(seed=1)
    windows = torch.randint(512, (5, 16), generator=torch.Generator().manual_seed(0))
    found = quality(small, dense, {"evaluation": windows})
    each = [perplexity(small, row[None]).loss - perplexity(dense, row[None]).loss for row in windows]
    assert found["increase"] == pytest.approx(np.mean(each), abs=1e-6)
    assert (found["increase_low"], found["increase_high"]) == pytest.approx(bootstrap_interval(each), abs=1e-5)


def test_quality_on_every_kind_is_their_mean(tiny_llama):
    dense, small = tiny_llama(seed=0), tiny_llama(seed=1)
    generator = torch.Generator().manual_seed(0)
    windows = {name: torch.randint(512, (3, 16), generator=generator) for name in ("code", "prose")}
    found = quality(small, dense, windows)
    each = {name: perplexity(small, ids).loss - perplexity(dense, ids).loss for name, ids in windows.items()}
    assert found["increase"] == pytest.approx(np.mean(list(each.values())), abs=1e-6)
    assert found["increase_low"] < found["increase"] < found["increase_high"]
    kinds = json.loads(found["kinds"])
    assert {name: value for name, (value, _, _) in kinds.items()} == pytest.approx(each, abs=1e-6)
    for name, (_, low, high) in kinds.items():
        alone = quality(small, dense, {name: windows[name]})
        assert (low, high) == (alone["increase_low"], alone["increase_high"]) and alone["kinds"] is None


@pytest.mark.usefixtures("imported")
def test_a_grid_judged_by_kind_has_a_table_of_kinds(parent, tmp_path):
    options = ["--ratios", "0.2", "--methods", "comp,random", "--seeds", "1", "--sequences", "2", "--length", "16"]
    options += ["--windows", "2", "--window", "16", "--multiple", "4", "--text-kinds", "--out", tmp_path / "out"]
    done = CliRunner().invoke(app, ["compare", str(parent), *map(str, options)])
    assert done.exit_code == 0, done.output
    rows = read_rows(tmp_path / "out" / "rows.csv")
    assert set(rows.evaluation) == {"kinds"}
    for row in rows.itertuples():
        kinds = json.loads(row.kinds)
        assert list(kinds) == list(KINDS)
        assert row.increase == pytest.approx(np.mean([value for value, _, _ in kinds.values()]), abs=1e-6)
    words = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert "by kind of text, 20% removed" in words and all(f" {kind} |" in words for kind in KINDS)
    refused = CliRunner().invoke(app, ["compare", str(parent), *map(str, options), "--calibration", "evaluation:code"])
    assert refused.exit_code == 2 and "which are the same" in refused.stderr


def test_rows_of_an_older_version_are_read(tmp_path):
    row = dict.fromkeys((name for name in COLUMNS if name != "kinds"), 1.0)
    pd.DataFrame([row | {"status": "ok"}]).to_csv(tmp_path / "rows.csv", index=False)
    assert read_rows(tmp_path / "rows.csv").kinds.isna().all()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux keeps the size of the parent in ru_maxrss")
def test_peak_memory_is_that_of_the_process_alone():
    ballast = torch.zeros(100 * 2**20 // 8, dtype=torch.float64) + 1  # the process that starts it is larger
    code = "from comp_lib.system.machine import peak_bytes as p; a = p(); x = bytearray(b'x') * 2**28; print(a, p())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    before, after = map(int, out)
    assert 240 * 2**20 < after - before < 280 * 2**20
    assert peak_bytes() >= ballast.nbytes


# --- killed and resumed -----------------------------------------------------------------------------------------------


# The command, which says its number first.
COMMAND = "import os; print(os.getpid(), flush=True); from comp_lib.cli.app import run; run()"


def test_a_grid_that_is_killed_goes_on_and_ends_the_same(straight, python, parent, tmp_path):
    out = tmp_path / "killed"
    words = [*python, "-c", COMMAND, "compare", *map(str, (parent, *GRID, "--out", out))]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    number = int(running.stdout.readline())
    try:
        # in the middle of the second cell
        while len(read_rows(out / "rows.csv")) < 1 or not (workers := psutil.Process(number).children()):
            assert running.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(number, signal.SIGKILL)
        running.communicate()
    left = read_rows(out / "rows.csv")
    assert len(left) == 1 and not (out / "table.md").exists()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive  # nobody goes on computing for a command that is gone

    done = CliRunner().invoke(app, ["compare", *map(str, (parent, *GRID, "--out", out))])
    assert done.exit_code == 0, done.stderr
    pd.testing.assert_frame_equal(fixed(out), fixed(straight), check_exact=True)
    again = read_rows(out / "rows.csv")
    pd.testing.assert_frame_equal(again.iloc[: len(left)], left)  # down to their seconds: they were not run again
    increase = [(f / "table.md").read_text().split("\n## ")[1] for f in (out, straight)]
    assert increase[0] == increase[1] and "comp + least-squares" in increase[0]


# --- the grid, with a worker that answers at once ---------------------------------------------------------------------

ANSWER = {name: 0.5 for name in (*DETERMINED[15:], *compare.TIMED)} | {
    "parameters": 7,
    "threads": 2,
    "versions": "0",
    "kinds": None,
}
FAKE = f"""
import json, os, signal, sys
run = json.loads(sys.stdin.readline())["run"]
trouble = os.environ.get("TROUBLE")
if trouble and run["settings"]["method"] == "random":
    if trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(trouble)
open(os.environ["CALLS"], "a").write(run["settings"]["method"] + "\\n")
print(json.dumps({ANSWER!r}))
"""


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """A worker that answers at once; returns what reads the methods that it was asked for."""
    monkeypatch.setattr(cluster, "MODULE", ("-c", FAKE))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return lambda: (tmp_path / "calls").read_text().split()


@pytest.mark.parametrize(("trouble", "said"), [("no such thing", "ValueError: no such thing"), ("kill", "SIGKILL")])
def test_a_failed_cell_is_recorded_and_tried_again(grid, tmp_path, monkeypatch, calls, trouble, said):
    monkeypatch.setenv("TROUBLE", trouble)
    rows = run(grid, tmp_path / "out").set_index("method")
    assert rows.status.to_dict() == {"comp": "ok", "random": "failed"}
    assert said in rows.message["random"] and pd.isna(rows.message["comp"]) and pd.isna(rows.increase["random"])
    assert len(list((tmp_path / "out").glob("failed-*.log"))) == 1
    monkeypatch.delenv("TROUBLE")
    rows = run(grid, tmp_path / "out")
    assert list(rows.status) == ["ok", "ok"] and list(rows.method) == ["comp", "random"]
    assert calls() == ["comp", "random"]  # comp was not run again
    assert len(read_rows(tmp_path / "out" / "rows.csv")) == 2
    assert not list((tmp_path / "out").glob("failed-*.log"))


def test_a_worker_that_does_not_even_listen_is_a_failed_cell(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "MODULE", ("-S", "-c", "import os; os.close(0); os._exit(3)"))
    rows = run(grid, tmp_path)
    assert set(rows.status) == {"failed"} and set(rows.message) == {"the process ended with code 3 and said nothing"}


def test_a_failure_shows_in_the_exit_code_and_the_table(parent, tmp_path, monkeypatch, calls):
    monkeypatch.setenv("TROUBLE", "out of luck")
    done = CliRunner().invoke(app, ["compare", str(parent), *GRID, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "- random, ratio 0.2, seed 0, 3 sequences: ValueError: out of luck" in done.output
    assert "failed" in (tmp_path / "out" / "table.md").read_text().lower()


def test_what_decides_the_outcome_decides_the_key(grid, tmp_path, tiny_llama, tokenizer):
    (name, keys), texts = grid.keyed(), tmp_path / "a.txt"
    assert [run.settings.method for run in keys.values()] == ["comp", "random"]
    texts.write_text(load_text("calibration"))
    other = tmp_path / "elsewhere" / "parent"
    tiny_llama().save_pretrained(other)
    tokenizer.save_pretrained(other)
    assert replace(grid, model=str(other)).keyed()[0] == name  # the same model, moved
    assert set(replace(grid, model=str(other)).keyed()[1]) == set(keys)
    for change in (
        {"length": 25},
        {"windows": 2},
        {"window": 30},
        {"calibration": str(texts)},
        {"dtype": "bfloat16"},
        {"settings": Settings(multiple=8)},
    ):
        changed = replace(grid, **change).keyed()
        assert changed[0] != name and not set(changed[1]) & set(keys), change
    for change in ({"ratios": (0.3,)}, {"sequences": (4,)}, {"recovery": "mask"}):
        changed = replace(grid, **change).keyed()
        assert changed[0] == name and not set(changed[1]) & set(keys), change
    calibrated = set(replace(grid, calibration=str(texts)).keyed()[1])
    texts.write_text(load_text("calibration") + "More.")
    assert not calibrated & set(replace(grid, calibration=str(texts)).keyed()[1])  # another text of the same name
    file = other / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"post_processor": None}), "utf-8")
    assert not set(replace(grid, model=str(other)).keyed()[1]) & set(keys)  # the same texts in other tokens
    tokenizer.save_pretrained(other)
    tiny_llama(seed=1).save_pretrained(other)
    assert not set(replace(grid, model=str(other)).keyed()[1]) & set(keys)  # another model of the same name


def test_rows_of_another_grid_stay_and_are_not_shown(grid, tmp_path, calls):
    run(grid, tmp_path)
    rows = run(replace(grid, ratios=(0.3,), sequences=(3, 4)), tmp_path)
    assert list(rows.ratio) == [0.3] * 4 and list(rows.sequences) == [3, 3, 4, 4]
    whole = read_rows(tmp_path / "rows.csv")
    assert len(whole) == 6 and whole.grid.nunique() == 1
    assert whole.parameters.tolist() == [7] * 6 and whole.ratio.tolist() == [0.2, 0.2, 0.3, 0.3, 0.3, 0.3]
    if importlib.util.find_spec("pyarrow") is not None:
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rows.parquet"), whole, check_dtype=False)


def test_stored_rows_are_found_again():
    """The rows that notebook 07 shows: what they were asked for gives their keys."""
    stored = read_rows(Path(__file__).parents[2] / "benchmarks" / "peers" / "rows.csv")
    live = Grid(EMBEDDED, (0.2,), ("comp", "wanda-sp"), 1, (8,), length=128, windows=4, window=256)
    texts = {name: hashes.of_text(load_text(name)) for name in ("calibration", "evaluation")}
    name, keys = replace(live, settings=Settings(multiple=32)).keyed({"model": "9055ad0cda312312"} | texts)
    assert list(keys) == stored.key[stored.grid == name].tolist()[:2]


def test_rows_that_two_write_at_once_are_both_kept(tmp_path, monkeypatch):
    """Each reads the file and, unless a lock is in its way, waits until the other has read it too."""
    meeting, read = threading.Barrier(2), compare.read_rows

    def read_and_meet(path):
        rows = read(path)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(timeout=1)
        return rows

    monkeypatch.setattr(compare, "read_rows", read_and_meet)
    rows = [dict.fromkeys(COLUMNS) | {"key": key} for key in ("one", "other")]
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(keep, tmp_path / "rows.csv", row) for row in rows]
    assert [future.exception() for future in done] == [None, None]
    assert sorted(read(tmp_path / "rows.csv").key) == ["one", "other"]


def test_what_a_lock_leaves_beside_the_rows_is_not_under_version_control(tmp_path):
    keep(tmp_path / "rows.csv", dict.fromkeys(COLUMNS) | {"key": "one"})
    ignored = (Path(__file__).parents[2] / ".gitignore").read_text("utf-8").split()
    others = {path.name for path in tmp_path.iterdir()} - {"rows.csv", "rows.parquet"}
    assert others and all(any(fnmatch(name, pattern) for pattern in ignored) for name in others)


def test_a_cell_survives_the_journey_to_its_worker(grid):
    for planned in grid.runs():
        request = RunRequest(planned, {"model": "abc"})
        assert RunRequest.from_message(json.loads(json.dumps(asdict(request)))) == request


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "comp,wnada-sp"], ["wnada-sp", "did you mean 'wanda-sp'"]),
        (["--methods", ","], ["method", "empty list"]),
        (["--ratios", "0.2,1.5"], ["between 0 and 1", "1.5"]),
        (["--ratios", "0.2,much"], ["--ratios", "much"]),
        (["--ratios", ""], ["ratio", "empty list"]),
        (["--sequences", "8,2.5"], ["--sequences", "2.5"]),
        (["--sequences", ""], ["sequences", "empty list"]),
        (["--sequences", "3,0"], ["at least 1 sequence", "0 x 24"]),
        (["--sequences", "3,100000"], ["tokens of calibration text", "100000 x 24"]),
        (["--seeds", "0"], ["--seeds", "got 0"]),
        (["--windows", "1"], ["--windows", "got 1"]),
        (["--window", "4096"], ["128", "4096"]),
        (["--recovery", "mastk"], ["mastk", "did you mean 'mask'"]),
        (["--calibration", "nowhere.txt"], ["nowhere.txt"]),
        (["--evaluate", "nowhere.txt"], ["nowhere.txt"]),
        (["--calibration", "evaluation"], ["evaluation", "same"]),
        (["--dtype", "float31"], ["float31"]),
    ],
)
def test_what_is_wrong_is_refused_before_any_work(parent, tmp_path, options, words):
    done = CliRunner().invoke(app, ["compare", str(parent), *GRID, "--out", str(tmp_path / "out"), *options])
    assert done.exit_code == 2, (done.output, done.exception)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("comp-lib: expected") and all(word in line for word in words), line
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_rows_is_refused(grid, tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="columns of a comparison"):
        run(grid, tmp_path)
    assert (tmp_path / "rows.csv").read_text() == "a,b\n1,2\n"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="folder"):
        run(grid, tmp_path / "file")
