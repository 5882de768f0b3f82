"""`evaluate` on every kind of text: the table, what --json gives, the picture, and what is refused before any work."""

from __future__ import annotations

import json
import re

import pytest
import torch
from command import refused, run
from rich.console import Console
from transformers import AutoModelForCausalLM

from comp_lib.calibration.text import KINDS, load_text
from comp_lib.cli.measure import kinds_table
from comp_lib.evaluation.loss import compare, evaluation_tokens

SMALL = ["--length", "32", "--sequences", "3"]


@pytest.fixture(scope="module")
def other(parent, tokenizer, tmp_path_factory):
    """The parent, hurt."""
    folder = tmp_path_factory.mktemp("models") / "other"
    model = AutoModelForCausalLM.from_pretrained(parent)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(parent, other, tokenizer):
    """Each kind by itself."""
    model, dense = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (other, parent))
    windows = {kind: evaluation_tokens(tokenizer, load_text(f"evaluation:{kind}"), 32, 3) for kind in KINDS}
    return {kind: compare(model, dense, ids) for kind, ids in windows.items()}


@pytest.fixture(scope="module")
def told(parent, other, tmp_path_factory):
    """What the command says as JSON, and the picture that it leaves."""
    picture = tmp_path_factory.mktemp("pictures") / "kinds.png"
    return run("evaluate", other, *SMALL, "--against", parent, "--figure", picture, "--json"), picture


def cells(output):
    """Of each row of a table, by its first cell; a row may go on in the next line."""
    rows = list[list[str]]()
    for line in output.splitlines():
        row = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if row and row[0]:
            rows.append(row)
        elif row:
            rows[-1] = [" ".join(filter(None, both)) for both in zip(rows[-1], row, strict=True)]
    return {row[0]: row[1:] for row in rows}


def test_the_default_is_a_table_of_all_kinds_and_their_mean(parent, other, expected):
    done = run("evaluate", other, *SMALL, "--against", parent)
    assert done.exit_code == 0, (done.output, done.exception)
    table = cells(done.stdout)
    assert table["text"] == ["dense", "pruned", "increase (95% interval)", "KL", "agreement"]
    assert list(table)[1:] == [*KINDS, "mean of 8"]
    for kind, one in expected.items():
        low, high = one.intervals()["increase"]
        increase = f"{one.increase:.3f} ({low:.3f} to {high:.3f})"
        rest = [f"{value:.3f}" for value in (one.kl, one.top1_agreement)]
        assert table[kind] == [f"{one.dense_loss:.3f}", f"{one.loss:.3f}", increase, *rest]
    assert float(table["mean of 8"][1]) == pytest.approx(sum(one.loss for one in expected.values()) / 8, abs=6e-4)


def test_without_a_dense_model_there_is_the_loss(other, expected):
    table = cells(run("evaluate", other, *SMALL, "--text", "kinds").stdout)
    assert table["text"] == ["loss (95% interval)"]
    low, high = expected["code"].intervals()["loss"]
    assert table["code"] == [f"{expected['code'].loss:.3f} ({low:.3f} to {high:.3f})"]


def test_the_mean_is_bold():
    rows = {name: ({"loss": 1.0}, {"loss": (0.5, 1.5)}) for name in ("prose", "mean of 1")}
    console = Console(force_terminal=True, width=80)
    with console.capture() as capture:
        console.print(kinds_table(rows))
    bold = [line for line in capture.get().splitlines() if re.search(r"\x1b\[1m ?(prose|mean)", line)]
    assert len(bold) == 1 and "mean of 1" in bold[0]


def test_json_has_all(told, other, expected):
    values = json.loads(told[0].stdout)
    assert (values["model"], values["text"], values["length"]) == (str(other), "kinds", 32)
    assert list(values["kinds"]) == list(KINDS)
    for kind, one in expected.items():
        found = values["kinds"][kind]
        for name in ("loss", "increase", "kl", "top1_agreement", "perplexity", "tokens", "sequences"):
            assert found[name] == pytest.approx(getattr(one, name), rel=1e-6)
        assert len(found["losses"]) == 3 and found["intervals"]["kl"] == pytest.approx(one.intervals()["kl"], rel=1e-4)
    for name in ("loss", "dense_loss", "increase", "kl", "top1_agreement"):
        mean = sum(getattr(one, name) for one in expected.values()) / 8
        low, high = values["mean"]["intervals"][name]
        assert values["mean"][name] == pytest.approx(mean, rel=1e-6) and low < mean < high


def test_one_text_is_measured_as_ever(parent, other, expected):
    done = run("evaluate", other, *SMALL, "--text", "evaluation", "--against", parent, "--json")
    values = json.loads(done.stdout)
    assert values["text"] == "evaluation" and "kinds" not in values
    for name in ("loss", "increase", "kl"):
        assert values[name] == pytest.approx(getattr(expected["prose"], name), rel=1e-6)
    assert values["intervals"]["increase"] == pytest.approx(expected["prose"].intervals()["increase"], rel=1e-4)
    assert cells(run("evaluate", other, *SMALL, "--text", "evaluation:code").stdout)["sequences"] == ["3", ""]


def test_a_figure_is_written(told):
    done, picture = told
    assert done.exit_code == 0, (done.output, done.exception)
    assert picture.read_bytes().startswith(b"\x89PNG") and json.loads(done.stdout)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--figure", "no/such/folder/a.png"], ["make the folder first"]),
        (["--figure", "kinds.jpg"], [".png", "kinds.jpg", "another name"]),
        (["--figure", "a.png", "--text", "evaluation"], ["--text evaluation", "leave one out"]),
        (["--figure", "a.png", "--tasks", "offline"], ["--tasks", "leave one out"]),
        (["--tasks", "offline", "--sequences", "2"], ["--sequences", "got 2 with --tasks", "leave one out"]),
        (["--tasks", "offline", "--text", "evaluation"], ["--text", "got evaluation with --tasks", "leave one out"]),
        (["--text", "kind"], ["kind", "no such file"]),
        (["--sequences", "0"], ["--sequences", "got 0"]),
        (["--length", "1"], ["--length", "got 1"]),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(parent, monkeypatch, options, words):
    def unwanted(*arguments):
        raise AssertionError("this is work")

    monkeypatch.setattr("comp_lib.models.load.load_model", unwanted)
    refused(run("evaluate", parent, *options), words)


def test_too_many_windows_name_the_kind_that_lacks_them(parent):
    done = run("evaluate", parent, "--length", "128", "--sequences", "100")
    refused(done, ["12700 tokens", "got", "fewer or shorter sequences", "encyclopedia"])


def test_a_figure_that_cannot_be_written_is_refused_in_one_line(parent, tmp_path):
    (tmp_path / "kinds.png").mkdir()
    refused(run("evaluate", parent, *SMALL, "--figure", tmp_path / "kinds.png"), ["--figure to be a file", "kinds.png"])
