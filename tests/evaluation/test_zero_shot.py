"""The shipped items are what their generators make, and lm-eval's numbers are what we compute ourselves."""

from __future__ import annotations

import importlib
import json
import math
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from command import refused, run
from conftest import DATA

from comp_lib.calibration.texts import KINDS, load_text
from comp_lib.checkpoints.load import load_model
from comp_lib.evaluation import zero_shot as zero_shot_module
from comp_lib.evaluation.zero_shot import SETS, load_tasks, zero_shot
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow

TASKS = DATA / "tasks"


def rows(name):
    return [json.loads(line) for line in (TASKS / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def grammar():
    """The pairs (right, wrong) of each phenomenon."""
    pairs = defaultdict(list)
    for row in rows("grammar.jsonl"):
        pairs[row["phenomenon"]].append((row["choices"][row["label"]], row["choices"][1 - row["label"]]))
    return pairs


# --- the shipped items --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["make_grammar", "make_cloze"])
def test_generators_make_the_committed_files(monkeypatch, name):
    monkeypatch.syspath_prepend(str(TASKS))
    contents = importlib.import_module(name).files()
    for file, content in contents.items():
        assert (TASKS / file).read_bytes() == content.encode("utf-8"), file
    if name == "make_grammar":
        assert {path.name for path in TASKS.glob("grammar*")} == set(contents)


def test_the_two_sentences_of_a_pair_differ_in_one_place_only(grammar):
    """They differ in one stretch of at most five words; no doubled space, a capital, a full stop."""
    assert len(grammar) >= 12
    for phenomenon, pairs in grammar.items():
        sentences = [sentence for pair in pairs for sentence in pair]
        assert len(set(sentences)) == 100  # of 50 pairs: no sentence is right here and wrong there
        for right, wrong in pairs:
            right_words = right.split(" ")
            wrong_words = wrong.split(" ")
            while right_words and wrong_words and right_words[0] == wrong_words[0]:
                del right_words[0], wrong_words[0]
            while right_words and wrong_words and right_words[-1] == wrong_words[-1]:
                del right_words[-1], wrong_words[-1]
            limit = 5 if phenomenon == "tense_adverb" else 3
            assert 1 <= max(len(right_words), len(wrong_words)) <= limit, (right, wrong)
            for sentence in (right, wrong):
                assert re.fullmatch(r"[A-Z][a-z]*( [A-Za-z]+)+[.?]", sentence), sentence


def test_cloze_items_come_from_the_evaluation_text():
    items = rows("cloze.jsonl")
    text = " ".join(load_text("evaluation").split())
    assert len(items) >= 200
    assert len({(item["passage"], item["choices"][item["label"]]) for item in items}) == len(items)
    pieces = [" ".join(piece.split()) for piece in load_text("evaluation").split("\n\n\n")]
    for item in items:
        passage = item["passage"]
        answer = item["choices"][item["label"]]
        assert re.search(re.escape(f"{passage} {answer}") + "[.?!]", text)
        assert len(item["choices"]) == len(set(item["choices"])) == 4
        (home,) = (piece for piece in pieces if f"{passage} {answer}" in piece)
        for distractor in set(item["choices"]) - {answer}:
            assert not re.search(rf"\b{distractor}\b", home.lower()), (distractor, passage)
            assert re.search(rf"\b{distractor}[.?!]", text)
            assert distractor.endswith("s") == answer.endswith("s")
            assert distractor.endswith("ed") == answer.endswith("ed")
    labels = [item["label"] for item in items]
    assert all(labels.count(label) > 40 for label in range(4))


@pytest.mark.parametrize("name", ["sense", "science"])
def test_questions_have_one_right_answer_that_nothing_gives_away(name):
    """Neither its place nor its length: who sees the options alone is right as often as by chance."""
    items = rows(f"{name}.jsonl")
    assert len(items) >= 300
    assert len({item["question"] for item in items}) == len(items)
    assert all(len(set(item["choices"])) == len(item["choices"]) == 4 for item in items)
    labels = [item["label"] for item in items]
    assert all(labels.count(label) == len(items) / 4 for label in range(4))
    for pick in (max, min):  # the longest, the shortest; those of one length share the win
        wins = 0.0
        for item in items:
            lengths = [len(choice) for choice in item["choices"]]
            best = [label for label, length in enumerate(lengths) if length == pick(lengths)]
            wins += (item["label"] in best) / len(best)
        assert 0.18 < wins / len(items) < 0.32


def test_nothing_is_in_the_calibration_text(grammar):
    calibration = set(shingles(load_text("calibration")))
    assert len(calibration) > 10_000
    for sentence in (sentence for pairs in grammar.values() for pair in pairs for sentence in pair):
        assert sentence not in load_text("calibration")
        assert not calibration & set(shingles(sentence))
    for item in rows("cloze.jsonl"):
        assert not calibration & set(shingles(f"{item['passage']} {item['choices'][item['label']]}"))
    all_kinds = set.union(calibration, *(set(shingles(load_text(f"calibration:{kind}"))) for kind in KINDS))
    for item in [*rows("sense.jsonl"), *rows("science.jsonl")]:
        assert not all_kinds & set(shingles(f"{item['question']} {item['choices'][item['label']]}")), item


def shingles(text, length=7):
    """Every phrase of seven words."""
    tokens = re.findall(r"[a-z0-9']+", text.lower())
    return [tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1)]


# --- scores -------------------------------------------------------------------------------------------------


def log_probability(model, tokenizer, context: str, answer: str) -> float:
    """log p(answer | context), token by token in float64: nothing of lm-eval's."""
    if context:
        context_ids = tokenizer(context)["input_ids"]
        ids = tokenizer(context + answer)["input_ids"]
    else:
        context_ids = [tokenizer.bos_token_id]
        ids = [*context_ids, *tokenizer(answer, add_special_tokens=False)["input_ids"]]
    assert ids[: len(context_ids)] == context_ids
    with torch.no_grad():
        table = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    return sum(table[position - 1, ids[position]].item() for position in range(len(context_ids), len(ids)))


@pytest.mark.parametrize("task", ["comp_cloze", "comp_grammar_reflexive_gender"])
def test_scores_are_what_we_compute_ourselves(tiny_llama, tokenizer, task):
    model = tiny_llama(max_position_embeddings=256)
    limit = 20
    if task == "comp_cloze":
        items = [
            (row["passage"], [f" {word}" for word in row["choices"]], row) for row in rows("cloze.jsonl")
        ]
    else:
        chosen = [row for row in rows("grammar.jsonl") if task.endswith(row["phenomenon"])]
        items = [("", row["choices"], row) for row in chosen]
    right = normed = 0
    for context, answers, row in items[:limit]:
        sums = [log_probability(model, tokenizer, context, answer) for answer in answers]
        per_letter = [value / len(word) for value, word in zip(sums, row["choices"], strict=True)]
        right += sums.index(max(sums)) == row["label"]
        normed += per_letter.index(max(per_letter)) == row["label"]
    results = zero_shot(model, tokenizer, load_tasks(task), batch=7, limit=limit)
    score = results["results"][task]
    assert (score["acc,none"], score["acc_norm,none"]) == (right / limit, normed / limit)
    assert 0 < right < limit == len(results["samples"][task])
    assert score["acc_stderr,none"] == pytest.approx(
        math.sqrt(right / limit * (1 - right / limit) / (limit - 1))
    )


def test_tasks_that_are_not_installed_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(zero_shot_module, "DATA_FOLDERS", (tmp_path,))
    with pytest.raises(InputError, match="expected tasks, which comes with comp_lib"):
        load_tasks("offline")


def test_a_group_is_the_mean_of_its_members(tiny_llama, tokenizer):
    model = tiny_llama(max_position_embeddings=256)
    scores = zero_shot(model, tokenizer, load_tasks("offline"), limit=2)["results"]
    members = {
        name.removeprefix("comp_grammar_"): score for name, score in scores.items() if "grammar_" in name
    }
    assert set(members) == {row["phenomenon"] for row in rows("grammar.jsonl")}
    assert len(scores) == len(members) + len(SETS["offline"])
    assert scores.keys() >= set(SETS["offline"])
    mean = sum(score["acc,none"] for score in members.values()) / 20
    assert scores["comp_grammar"]["acc,none"] == pytest.approx(mean)


def test_a_ruined_model_gets_chance_not_everything(tiny_llama, tokenizer):
    """All answers tie at NaN, and the first is taken: the right one stands first only half of the time."""
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    scores = zero_shot(model, tokenizer, load_tasks("comp_grammar_polarity"))["results"]
    assert 0.25 < scores["comp_grammar_polarity"]["acc,none"] < 0.75


# --- names and refusals -------------------------------------------------------------------------------------


def test_names():
    grammar, *tasks = load_tasks("offline")
    assert grammar.name == "comp_grammar"
    assert sorted(task.task_name for task in tasks) == sorted(SETS["offline"][1:])
    two = load_tasks("comp_cloze, comp_grammar_polarity,comp_cloze")
    assert [task.task_name for task in two] == ["comp_cloze", "comp_grammar_polarity"]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("comp_grammar,comp_grammar_polarity", "ValueError: Duplicate"),
        ("piqa", "ConnectionError"),  # lm-eval knows it
    ],
)
def test_what_lm_eval_cannot_load_is_refused(monkeypatch, names, why):
    """Tests run with HF_HUB_OFFLINE; the message is the same without a cable."""
    manager = importlib.import_module("lm_eval.tasks.manager")
    # not all thousands of tasks
    monkeypatch.setattr(manager, "__file__", manager.__file__.replace("manager", "piqa/piqa"))
    message = f"lm-eval can load, got '{names}': {why}.*choose offline, literature or"
    with pytest.raises(InputError, match=message):
        load_tasks(names)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("", "choose offline"),
        ("comp_clozee", "did you mean 'comp_cloze'"),
        ("/no/such/file.yaml", "choose offline"),
    ],
)
def test_a_task_that_lm_eval_does_not_know_is_refused_by_its_name(name, hint):
    with pytest.raises(InputError, match=f"names of tasks that lm-eval knows, got '{name}': {hint}"):
        load_tasks(f"comp_cloze,{name}")


# --- nothing of the current folder --------------------------------------------------------------------------

MARK = "open({!r}, 'w').close()\n"  # code of somebody who left files where one stands
TASK = """\
task: comp_foreign
custom_dataset: !function {reader}.read
dataset_kwargs: {{file: cloze.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: passage
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: {metric}, hf_evaluate: {is_foreign}}}]
"""


@pytest.mark.parametrize("as_path", [str, "./{}".format, "{}".format])
def test_a_file_of_tasks_is_refused_and_never_run(tmp_path, monkeypatch, as_path):
    (tmp_path / "evil.py").write_text(MARK.format(str(tmp_path / "ran")) + "def read(**_): return {}\n")
    (tmp_path / "comp_evil").write_text(TASK.format(reader="evil", metric="acc", is_foreign="false"))
    monkeypatch.chdir(tmp_path)
    name = str(tmp_path / "comp_evil") if as_path is str else as_path("comp_evil")
    with pytest.raises(InputError, match=f"names of tasks that lm-eval knows, got '{name}'"):
        load_tasks(name)
    assert not (tmp_path / "ran").exists()


def test_tasks_start_no_process(parent, monkeypatch):
    """lm-eval's description of the machine runs pip and git, in the folder where one stands."""
    started = []

    def refuse(*arguments, **options):
        started.append(arguments)
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "Popen", refuse)
    result = run("evaluate", parent, "--tasks", "comp_grammar_polarity")
    assert result.exit_code == 0, result.output
    assert started == []


def test_a_metric_is_not_taken_from_the_current_folder(tmp_path, monkeypatch):
    """The library `evaluate` prefers a folder of the metric's name to the metric."""
    shutil.copytree(TASKS, tmp_path / "tasks")
    task = TASK.format(reader="reader", metric="f1", is_foreign="true")
    (tmp_path / "tasks" / "foreign.yaml").write_text(task)
    (tmp_path / "here" / "f1").mkdir(parents=True)
    (tmp_path / "here" / "f1" / "f1.py").write_text(MARK.format(str(tmp_path / "ran")))
    monkeypatch.setattr(zero_shot_module, "DATA_FOLDERS", (tmp_path,))
    monkeypatch.chdir(tmp_path / "here")
    load_tasks("comp_foreign")
    assert not (tmp_path / "ran").exists()
    assert Path.cwd() == tmp_path / "here"


@pytest.mark.parametrize("as_group", [False, True])
def test_a_task_that_runs_code_is_refused_in_one_line(tmp_path, monkeypatch, parent, as_group):
    """lm-eval would raise an error of its own, once the model is loaded."""
    shutil.copytree(TASKS, tmp_path / "tasks")
    task = TASK.format(reader="reader", metric="acc", is_foreign="false") + "unsafe_code: true\n"
    (tmp_path / "tasks" / "foreign.yaml").write_text(task)
    (tmp_path / "tasks" / "group.yaml").write_text("group: comp_group\ntask: [comp_cloze, comp_foreign]\n")
    monkeypatch.setattr(zero_shot_module, "DATA_FOLDERS", (tmp_path,))
    result = run("evaluate", parent, "--tasks", "comp_group" if as_group else "comp_foreign")
    refused(result, ["tasks that run no code", "comp_foreign, which lm-eval calls unsafe"])


def test_without_lm_eval(monkeypatch, parent):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(run("evaluate", parent, "--tasks", "offline"), ["lm_eval", "pip install 'comp-lib[evaluate]'"])


def test_the_command_prints_a_table(parent):
    result = run("evaluate", parent, "--tasks", "comp_grammar_polarity")
    assert result.exit_code == 0, result.output
    scores = zero_shot(*load_model(str(parent)), load_tasks("comp_grammar_polarity"))["results"]
    for word in (
        "acc_norm",
        "Stderr",
        "Version",
        f"{scores['comp_grammar_polarity']['acc,none']:.4f}".rstrip("0"),
    ):
        assert word in result.stdout
