"""`evaluate`: the table, and what is refused before any work."""

from __future__ import annotations

import re

import pytest
import torch
from command import QUICK_FLAGS, ran, refused, run
from transformers import AutoModelForCausalLM

from comp_lib.calibration.texts import KINDS, load_text
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
    table = cells(ran("evaluate", other, *SMALL, "--against", parent).stdout)
    assert table["text"] == ["dense", "loss", "increase", "kl", "agreement"]
    assert list(table)[1:] == [*KINDS, "mean of 8"]
    for kind, one in expected.items():
        assert table[kind][:2] == [f"{one.dense_loss:.3f}", f"{one.loss:.3f}"]
        assert table[kind][2].startswith(f"{one.increase:.3f}")
        assert table[kind][3:] == [f"{one.kl:.3f}", f"{one.top1_agreement:.3f}"]
    assert float(table["mean of 8"][1]) == pytest.approx(
        sum(one.loss for one in expected.values()) / 8, abs=6e-4
    )


def test_one_text_without_a_dense_model_is_its_loss_and_perplexity(other, expected):
    table, one = cells(ran("evaluate", other, *SMALL, "--text", "evaluation:code").stdout), expected["code"]
    assert table["text"] == ["loss", "perplexity"]
    assert table["evaluation:code"][0].startswith(f"{one.loss:.3f}")
    assert table["evaluation:code"][1] == f"{one.perplexity:.3f}"


def test_a_model_against_itself_has_no_increase_for_certain(parent):
    few = ("--text", "evaluation", "--length", "32", "--sequences", "10")
    row = cells(ran("evaluate", parent, *few, "--against", parent).stdout)["evaluation"]
    assert (
        row[0] == row[1] and row[2] == "0.000 (0.000 to 0.000)" and float(row[3]) == 0.0 and row[4] == "1.000"
    )
    loss, low, high = map(
        float, re.findall(r"[0-9.]+", cells(ran("evaluate", parent, *few).stdout)["evaluation"][0])
    )
    assert low < loss < high


def test_text_that_calibrated_the_model_is_warned_of_under_any_name(parent, tmp_path):
    source, copy = "calibration+evaluation:code", tmp_path / "copy.txt"
    ran("prune", parent, "--out", tmp_path / "small", *QUICK_FLAGS[:-1], source)
    copy.write_text(load_text("calibration"), "utf-8")
    met = {
        "calibration:prose": "calibration:prose",
        copy: copy,
        "kinds": "evaluation:code",
        "evaluation": None,
    }
    for text, named in met.items():
        said = ran("evaluate", tmp_path / "small", *SMALL, "--text", text).stderr
        assert (
            (f"comp-lib: {named} calibrated this model" in said)
            == ("calibrated" in said)
            == (named is not None)
        )
    assert "calibrated" not in ran("evaluate", parent, *SMALL, "--text", "calibration").stderr
    card = tmp_path / "small" / "README.md"
    card.write_text(card.read_text("utf-8").replace("calibrated_on: [", "calibrated_on: 5 ["), "utf-8")
    ran("evaluate", tmp_path / "small", *SMALL, "--text", "calibration")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--text", "kind"], ["kind", "no such file"]),
        (["--tasks", "comp_gramar"], ["comp_gramar", "offline"]),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(parent, monkeypatch, options, words):
    monkeypatch.setattr("comp_lib.models.load.load_model", lambda *_: pytest.fail("this is work"))
    refused(run("evaluate", parent, *options), words)
