"""`evaluate`: the table, and what is refused before any work."""

from __future__ import annotations

import re
from math import exp

import pytest
import torch
from command import QUICK_FLAGS, ran, refused, run
from transformers import AutoModelForCausalLM

from comp_lib.calibration.texts import KINDS, load_text
from comp_lib.checkpoints.load import load_model
from comp_lib.evaluation.by_kind import EvaluationByText
from comp_lib.evaluation.loss import compare_losses, measure_loss
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.evaluation.zero_shot import load_tasks, zero_shot

pytestmark = pytest.mark.slow

SMALL = ["--window-length", "32", "--window-count", "3"]


@pytest.fixture(scope="module")
def damaged(parent, tokenizer, tmp_path_factory):
    """The parent, with a layer that says less."""
    folder = tmp_path_factory.mktemp("models") / "damaged"
    model = AutoModelForCausalLM.from_pretrained(parent)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(parent, damaged, tokenizer):
    """Each kind by itself."""
    model = AutoModelForCausalLM.from_pretrained(damaged).eval()
    dense = AutoModelForCausalLM.from_pretrained(parent).eval()
    windows_by_text = {
        kind: evaluation_tokens(tokenizer, load_text(f"evaluation:{kind}"), 32, 3) for kind in KINDS
    }
    return {kind: compare_losses(model, dense, ids) for kind, ids in windows_by_text.items()}


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


def test_the_default_is_a_table_of_all_kinds_and_their_mean(parent, damaged, expected):
    table = cells(ran("evaluate", damaged, *SMALL, "--against", parent).stdout)
    assert table["text"] == ["dense", "loss", "increase", "kl", "agreement"]
    assert list(table)[1:] == [*KINDS, "mean of 8"]
    for kind, evaluation in expected.items():
        # three windows have no interval, and are not worth three decimals
        measures = (evaluation.dense_loss, evaluation.loss, evaluation.increase, evaluation.kl)
        assert table[kind] == [f"{value:.2f}" for value in (*measures, evaluation.top1_agreement)]
    mean = sum(evaluation.loss for evaluation in expected.values()) / 8
    assert float(table["mean of 8"][1]) == pytest.approx(mean, abs=6e-4)


def test_one_text_without_a_dense_model_is_its_loss_and_perplexity(damaged, expected):
    table = cells(ran("evaluate", damaged, *SMALL, "--judged-on", "evaluation:code").stdout)
    assert table["text"] == ["loss", "perplexity"]
    loss, perplexity = table["evaluation:code"]
    assert loss == f"{expected['code'].loss:.2f}"
    assert perplexity == f"{expected['code'].perplexity:.2f}"


def test_it_ends_with_what_multiplies_the_perplexity_and_with_the_next_command(parent, damaged, expected):
    lines = ran("evaluate", damaged, *SMALL, "--against", parent).stdout.splitlines()
    judged = EvaluationByText(expected)
    low, high = judged.intervals.increase
    factor = f"{exp(judged.mean.increase):.2f} ({exp(low):.2f} to {exp(high):.2f})"
    sentence = f"{damaged} against {parent}: perplexity times {factor} on mean of 8; least on "
    assert lines[-2].startswith(sentence)
    worst_kind = max(expected, key=lambda kind: expected[kind].increase)
    assert lines[-2].endswith(f"most on {worst_kind} ({exp(expected[worst_kind].increase):.1f})")
    assert lines[-1].startswith("next: ")
    assert lines[-1].endswith(f"comp-lib evaluate {damaged} --against {parent} --tasks offline")
    alone = ran(
        "evaluate", damaged, "--judged-on", "evaluation:code", "--window-length", "32", "--window-count", "9"
    ).stdout
    *_, sentence, advice = alone.splitlines()
    assert re.fullmatch(r".*: perplexity [\d.]+ \([\d.]+ to [\d.]+\) on evaluation:code", sentence)
    assert "--against PARENT" in advice


def test_tasks_show_the_parent_beside_the_model(parent, damaged):
    output = ran("evaluate", damaged, "--against", parent, "--tasks", "comp_grammar_polarity").stdout
    (line,) = (line for line in output.splitlines() if re.match("│ comp_grammar_polarity +│ acc +│", line))
    row = [cell.strip() for cell in line.split("│")[2:-1]]
    suite = load_tasks("comp_grammar_polarity")
    accuracies = [
        zero_shot(*load_model(folder), suite)["results"]["comp_grammar_polarity"]["acc,none"]
        for folder in (parent, damaged)
    ]
    assert row[:3] == ["acc", *(f"{accuracy:.3f}" for accuracy in accuracies)]
    assert row[3].startswith(f"{accuracies[1] - accuracies[0]:+.3f} (")
    *_, sentence, advice = output.splitlines()
    assert sentence.startswith(f"{damaged} against {parent}: ")
    assert "more than chance" in sentence
    assert f"comp-lib generate {damaged} --prompt" in advice


def test_windows_are_as_long_as_the_model_reads(parent, damaged, tokenizer):
    row = cells(ran("evaluate", damaged, "--judged-on", "evaluation:code", "--window-count", "2").stdout)
    model = AutoModelForCausalLM.from_pretrained(damaged).eval()
    ids = evaluation_tokens(tokenizer, load_text("evaluation:code"), 128, 2)  # the context is 128 tokens
    assert row["evaluation:code"][0] == f"{measure_loss(model, ids).loss:.2f}"


def test_a_model_against_itself_has_no_increase_for_certain(parent):
    flags = ("--judged-on", "evaluation", "--window-length", "32", "--window-count", "10")
    row = cells(ran("evaluate", parent, *flags, "--against", parent).stdout)["evaluation"]
    dense_loss, loss, increase, divergence, agreement = row
    assert dense_loss == loss
    assert increase == "0.000 (0.000 to 0.000)"
    assert float(divergence) == 0.0
    assert agreement == "1.000"
    cell = cells(ran("evaluate", parent, *flags).stdout)["evaluation"][0]
    loss, low, high = map(float, re.findall(r"[0-9.]+", cell))
    assert low < loss < high


def test_text_that_calibrated_the_model_is_warned_of_under_any_name(parent, tmp_path):
    small = tmp_path / "small"
    ran("prune", parent, "--out", small, *QUICK_FLAGS[:-1], "calibration+evaluation:code")
    copy = tmp_path / "copy.txt"
    copy.write_text(load_text("calibration"), "utf-8")
    for text, name in (
        ("calibration:prose", "calibration:prose"),
        (copy, copy),
        ("kinds", "evaluation:code"),
    ):
        message = ran("evaluate", small, *SMALL, "--judged-on", text).stderr
        assert f"comp-lib: {name} calibrated this model" in message
    for model, text in ((small, "evaluation"), (parent, "calibration")):
        assert "calibrated this model" not in ran("evaluate", model, *SMALL, "--judged-on", text).stderr
    card = small / "README.md"
    for wrong in ("5", "[[[]]]", "[" * 100_000):
        text = re.sub(r"calibrated_on: .*", f"calibrated_on: {wrong}", card.read_text("utf-8"))
        card.write_text(text, "utf-8")
        ran("evaluate", small, *SMALL, "--judged-on", "calibration")


@pytest.mark.parametrize(
    ("options", "phrases"),
    [
        (["--judged-on", "kind"], ["kind", "no such file"]),
        (["--tasks", "comp_gramar"], ["'comp_gramar': did you mean 'comp_grammar'?"]),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(parent, monkeypatch, options, phrases):
    monkeypatch.setattr("comp_lib.checkpoints.load.load_model", lambda *_: pytest.fail("this is work"))
    refused(run("evaluate", parent, *options), phrases)
