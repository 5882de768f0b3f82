"""The grid of a comparison: what it measures, that a kill costs nothing, that damaged rows are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from command import refused
from command import run as command
from rows import ANSWER, TIMED_COLUMNS
from variants import build

from comp_lib.calibration.texts import load_text
from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.load import load_model
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_interval
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.importance.neuron_metrics import METRICS
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import PRESETS, Settings
from comp_lib.reports.comparison import cluster
from comp_lib.reports.comparison import grid as module
from comp_lib.reports.comparison.grid import Grid, read_rows, run, runs_of
from comp_lib.utils.machine import peak_bytes

pytestmark = pytest.mark.slow

SIZES = [
    "--sequences",
    "3",
    "--length",
    "24",
    "--multiple",
    "4",
    "--window-count",
    "8",
    "--window-length",
    "40",
]
GRID = ["--ratios", "0.2", "--methods", "comp,random", "--seeds", "1", *SIZES]


@pytest.fixture
def grid(parent, tmp_path_factory):
    """Its texts are short, since each list of runs cuts them into tokens."""
    folder = tmp_path_factory.mktemp("texts")
    size = {"length": 24, "window_count": 3, "window_length": 40}
    for field, name in (("calibration", "calibration"), ("judged_on", "evaluation")):
        (folder / name).write_text(load_text(name)[:4000], "utf-8")
        size[field] = str(folder / name)
    return Grid(str(parent), (0.2,), ("comp", "random"), 1, (3,), changes={"multiple": 4}, **size)


@pytest.fixture
def at_once(monkeypatch):
    """Nothing is measured."""
    monkeypatch.setattr(module, "measure_in_process", lambda request, folder, threads: ANSWER)


def recoveries(grid):
    return [request["settings"]["recovery"] for request in runs_of(grid).values()]


def test_flap_goes_without_a_bias_where_the_family_has_no_room_for_one(grid, tokenizer, tmp_path):
    build("gemma3").save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    llama = replace(grid, methods=("comp", "flap"))
    gemma = replace(llama, model=str(tmp_path / "gemma"))
    assert recoveries(llama) == ["least-squares", "bias"]
    assert recoveries(gemma) == ["least-squares", "none"]


def test_a_method_has_the_widths_of_its_preset(grid):
    requests = runs_of(replace(grid, methods=("comp", "flap", "wanda-sp"))).values()
    widths = [request["settings"]["widths"] for request in requests]
    assert widths == ["estimated", "uniform", "uniform"]


def test_a_metric_of_ones_own_is_compared_with_the_refit(grid, monkeypatch):
    monkeypatch.setitem(METRICS, "mine", METRICS["magnitude"])
    assert recoveries(replace(grid, methods=("magnitude", "mine"))) == ["none", "least-squares"]


@pytest.fixture(scope="module")
def imported(python):
    """The process of a run has its imports behind it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "COMMAND", (*python, *cluster.COMMAND[1:]))
        yield


@pytest.fixture(scope="module")
def straight(parent, tmp_path_factory, imported):
    """The folder of a grid that ran from its start to its end, by the command line."""
    folder = tmp_path_factory.mktemp("straight")
    result = command("compare", parent, *GRID, "--out", folder)
    assert result.exit_code == 0, result.stderr
    assert "comp + least-squares" in result.stdout
    assert "increase.png" in result.stdout
    return folder


# --- what a row says ----------------------------------------------------------------------------------------


def decoder_parameters(model):
    return sum(parameter.numel() for parameter in model.model.layers.parameters())


def test_a_row_is_what_was_measured(straight, parent):
    rows = read_rows(straight / "rows.csv").set_index("method")
    assert list(rows.status) == ["ok", "ok"]
    assert set(rows.recovery["comp":"comp"]) == {"least-squares"}
    assert rows.recovery["random"] == "none"
    assert PRESETS["tailored"].items() <= json.loads(rows.settings["comp"]).items()
    model, tokenizer = load_model(parent)
    ids = calibration_tokens("calibration", tokenizer, sequences=3, length=24, seed=0)
    windows = evaluation_tokens(tokenizer, load_text("evaluation"), 40, 8)
    dense = measure_loss(model, windows)
    for method, recovery in (("comp", "least-squares"), ("random", "none")):
        settings = Settings(method=method, multiple=4).completed()
        assert settings.recovery == recovery
        small = prune(model, ids, settings).model
        row = rows.loc[method]
        after = measure_loss(small, windows)
        assert row.loss == pytest.approx(after.loss, abs=1e-5)
        assert row.dense_loss == pytest.approx(dense.loss, abs=1e-5)
        assert row.increase == pytest.approx(after.loss - dense.loss, abs=1e-5)
        assert row.increase_low <= row.increase <= row.increase_high
        removed = 1 - decoder_parameters(small) / decoder_parameters(model)
        assert row.removed == pytest.approx(removed, abs=1e-12)
        assert row.removed >= 0.2
        assert row.parameters == small.num_parameters()
        assert json.loads(row.settings)["ratio"] == 0.2
        with torch.inference_mode():  # KL and agreement by brute force over all logits at once
            log_p = model(input_ids=windows).logits[:, :-1].double().log_softmax(-1)
            log_q = small(input_ids=windows).logits[:, :-1].double().log_softmax(-1)
        divergence = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        agreement = float((log_p.argmax(-1) == log_q.argmax(-1)).double().mean())
        assert row.kl == pytest.approx(divergence, abs=1e-4)
        assert row.top1_agreement == pytest.approx(agreement, abs=1e-6)
        assert (row[list(TIMED_COLUMNS)].astype(float) > 0).all()
    assert str(parent) not in (straight / "rows.csv").read_text()


def test_quality_pairs_the_windows_of_each_kind(tiny_llama):
    dense = tiny_llama(seed=0)
    small = tiny_llama(seed=1)
    generator = torch.Generator().manual_seed(0)
    windows_by_text = {name: torch.randint(512, (9, 16), generator=generator) for name in ("code", "prose")}
    on_code = judge(small, {"code": windows_by_text["code"]}, dense)
    increases = [
        measure_loss(small, row[None]).loss - measure_loss(dense, row[None]).loss
        for row in windows_by_text["code"]
    ]
    assert on_code.mean.increase == pytest.approx(np.mean(increases), abs=1e-6)
    assert on_code.intervals.increase == pytest.approx(confidence_interval(increases), abs=1e-5)
    on_both = judge(small, windows_by_text, dense)
    increases = [
        measure_loss(small, ids).loss - measure_loss(dense, ids).loss for ids in windows_by_text.values()
    ]
    assert on_both.mean.increase == pytest.approx(np.mean(increases), abs=1e-6)
    low, high = on_both.intervals.increase
    assert low < on_both.mean.increase < high
    on_five_windows = judge(small, {"code": windows_by_text["code"][:5]}, dense)
    assert on_five_windows.intervals.increase is None


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="Linux keeps the size of the parent in ru_maxrss"
)
def test_peak_memory_is_that_of_the_process_alone():
    ballast = torch.zeros(100 * 2**20 // 8, dtype=torch.float64) + 1  # the process that starts it is larger
    code = "import sys, unittest.mock; sys.modules['torch'] = unittest.mock.MagicMock()  # it takes seconds\n"
    code += "from comp_lib.utils.machine import peak_bytes as p\n"
    code += "a = p(); x = bytearray(b'x') * 2**28; print(a, p())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, process.stdout.split())
    assert 240 * 2**20 < after - before < 280 * 2**20
    assert peak_bytes() >= ballast.nbytes


# --- killed and resumed -------------------------------------------------------------------------------------


# the command, which says its number first, and whose runs have their imports behind them, too
COMMAND = "import os; print(os.getpid(), flush=True); from comp_lib.cli.app import app; "
COMMAND += "from comp_lib.reports.comparison import cluster; cluster.COMMAND = {}; app()"


def test_a_grid_that_is_killed_goes_on_and_ends_the_same(straight, python, parent, tmp_path):
    out = tmp_path / "killed"
    arguments = ["compare", *map(str, (parent, *GRID, "--out", out))]
    running = subprocess.Popen(
        [*python, "-c", COMMAND.format(cluster.COMMAND), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    number = int(running.stdout.readline())
    workers = []
    try:
        # until it is in the middle of the second cell
        while len(read_rows(out / "rows.csv")) < 1 or not workers:
            assert running.poll() is None
            time.sleep(0.05)
            workers = psutil.Process(number).children()
    finally:
        os.kill(number, signal.SIGKILL)
        running.communicate()
    rows_at_kill = read_rows(out / "rows.csv")
    assert len(rows_at_kill) == 1
    assert not (out / "table.md").exists()
    psutil.wait_procs(workers, timeout=60)

    result = command("compare", parent, *GRID, "--out", out)
    assert result.exit_code == 0, result.stderr
    rows = read_rows(out / "rows.csv")
    straight_rows = read_rows(straight / "rows.csv")
    pd.testing.assert_frame_equal(without_times(rows), without_times(straight_rows), check_exact=True)
    # down to its seconds: the run was not measured again
    pd.testing.assert_frame_equal(rows.iloc[: len(rows_at_kill)], rows_at_kill)
    assert table_of_increases(out) == table_of_increases(straight)
    assert "comp + least-squares" in table_of_increases(out)


def without_times(rows):
    return rows.drop(columns=list(TIMED_COLUMNS)).sort_values("key")


def table_of_increases(folder):
    return (folder / "table.md").read_text().split("\n## ")[1]


# --- the grid, with an engine that answers at once ----------------------------------------------------------


def test_what_decides_the_outcome_decides_the_key(grid, tmp_path, tiny_llama, tokenizer, monkeypatch):
    runs = runs_of(grid)
    keys = set(runs)
    assert [request["settings"]["method"] for request in runs.values()] == ["comp", "random"]
    text_file = tmp_path / "a.txt"
    text_file.write_text(load_text(grid.calibration))
    moved = tmp_path / "elsewhere" / "parent"
    tiny_llama().save_pretrained(moved)
    tokenizer.save_pretrained(moved)
    assert keys_of(grid, model=str(moved)) == keys  # the same model, moved
    for change in (
        {"length": 25},
        {"window_length": 30},
        {"calibration": str(text_file)},
        {"changes": {"multiple": 8}},
        {"judged_on": "calibration:code"},
    ):
        assert not keys_of(grid, **change) & keys, change
    monkeypatch.setattr(module, "METHOD_VERSION", 0)
    assert not keys_of(grid) & keys  # other numbers
    monkeypatch.undo()
    keys_with_file = keys_of(grid, calibration=str(text_file))
    text_file.write_text(load_text(grid.calibration) + "More.")
    assert not keys_with_file & keys_of(grid, calibration=str(text_file))  # another text of the same name
    tokenizer_file = moved / "tokenizer.json"
    fields = json.loads(tokenizer_file.read_text("utf-8")) | {"post_processor": None}
    tokenizer_file.write_text(json.dumps(fields), "utf-8")
    assert not keys_of(grid, model=str(moved)) & keys  # the same texts in other tokens
    tokenizer.save_pretrained(moved)
    tiny_llama(seed=1).save_pretrained(moved)
    assert not keys_of(grid, model=str(moved)) & keys  # another model of the same name


def keys_of(grid, **changes):
    return set(runs_of(replace(grid, **changes)))


@pytest.mark.usefixtures("at_once")
def test_rows_of_another_grid_stay_and_are_not_shown(grid, tmp_path):
    run(grid, tmp_path)
    rows = run(replace(grid, ratios=(0.3,), sequences=(3, 4)), tmp_path)
    assert list(rows.ratio) == [0.3] * 4
    assert list(rows.sequences) == [3, 3, 4, 4]
    all_rows = read_rows(tmp_path / "rows.csv")
    assert all_rows.increase.tolist() == [0.5] * 6
    assert all_rows.ratio.tolist() == [0.2, 0.2, 0.3, 0.3, 0.3, 0.3]


def test_a_failure_shows_in_the_exit_code_and_the_table(parent, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "COMMAND", (sys.executable, "-S", "-c", "raise ValueError('out of luck')"))
    result = command("compare", parent, *GRID, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "- random, ratio 0.2, seed 0, 3 sequences: ValueError: out of luck" in result.output
    assert "failed" in (tmp_path / "out" / "table.md").read_text().lower()


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--methods", "comp,wnada-sp"], ["wnada-sp", "did you mean 'wanda-sp'"]),
        (["--ratios", "0.2,1.5"], ["between 0 and 1", "1.5"]),
        (["--methods", ","], ["at least one ratio, method, seed"]),
        (["--sequences", "3,0"], ["sequences as a whole number above 0", "got 0"]),
        (["--calibration", "general", "--sequences", "0"], ["sequences as a whole number above 0", "got 0"]),
        (["--sequences", "3,100000"], ["tokens of calibration text", "100000 x 24"]),
        (["--window-length", "4096"], ["128", "4096"]),
        (["--calibration", "nowhere.txt"], ["nowhere.txt"]),
        (["--calibration", "evaluation"], ["evaluation", "same"]),
    ],
)
def test_what_is_wrong_is_refused_before_any_work(parent, tmp_path, options, messages):
    refused(command("compare", parent, *GRID, "--out", tmp_path / "out", *options), messages)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"key,value\na,1\n", b"key,grid\n\xff\x00,1,2,3\n"])
def test_other_rows_are_refused_in_one_line(parent, tmp_path, content):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    result = command("compare", parent, *GRID, "--out", tmp_path)
    refused(result, ["rows of a comparison", "name another folder"])
    assert path.read_bytes() == content
