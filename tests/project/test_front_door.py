"""What `comp_lib` exports has real types, and a user's file that uses all of it runs as it stands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import comp_lib
from comp_lib import Calibration, Plan, Settings, evaluate, load_model, prune
from comp_lib.evaluation.windows import evaluation_tokens

ROOT = Path(__file__).resolve().parents[2]
USERS_FILE = """\
import torch

from comp_lib import Calibration, Plan, Problem, Selection, Settings
from comp_lib import evaluate, keep_highest, load_model, metric, prune, prune_model, save_model


@metric("loudest")
def loudest(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    energy = problem.statistics.diagonal() * problem.weight.abs().amax(1)
    return keep_highest(problem.per_block(energy), keep)


model, tokenizer = load_model("PARENT")
text = Calibration("calibration", sequences=8, length=24)
pruned = prune(model, text.tokens(tokenizer), Settings(ratio=0.2, method="loudest", multiple=4))
quality = evaluate(pruned.model, tokenizer, "evaluation:code", parent=model, window_length=24, window_count=8)
folder = save_model(pruned, "in-memory", tokenizer)
verdict = prune_model("PARENT", "on-disk", 0.2, calibration=text, multiple=4, judged_on=None)
plan: Plan = verdict.plan
increase: float = quality.mean.increase
if verdict.quality is not None:
    increase_on_prose: float = verdict.quality.texts["prose"].increase
print(folder, plan.removed, increase)
"""
MISTAKES = {
    "prune(model)": "Missing positional argument",
    'prune(model, text, Settings(ratio="a fifth"))': "incompatible type",
    'prune_model("PARENT", "out", sequence=3)': "Unexpected keyword argument",
    "evaluate(model)": "No overload variant",
    "load_model(3)": "incompatible type",
    "plan.kept": "has no attribute",
}


def type_checked(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_type_checker_knows_what_a_users_file_uses_and_what_it_uses_wrongly(tmp_path):
    right = tmp_path / "right.py"
    right.write_text(USERS_FILE)
    checked = type_checked(right)
    assert checked.returncode == 0, checked.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text(USERS_FILE + "".join(f"{line}\n" for line in MISTAKES))
    report = type_checked(wrong).stdout
    first_line = USERS_FILE.count("\n") + 1
    for number, message in enumerate(MISTAKES.values(), first_line):
        assert re.search(rf"wrong\.py:{number}: error: .*{message}", report), (message, report)


@pytest.mark.slow
def test_a_users_file_runs(parent, tmp_path):
    path = tmp_path / "user.py"
    path.write_text(USERS_FILE.replace("PARENT", str(parent)))
    result = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    folder, removed, increase = result.stdout.split()
    assert folder == "in-memory"
    assert 0.2 <= float(removed) < 0.5
    dense, tokenizer = load_model(parent)
    pruned, _ = load_model(tmp_path / "in-memory")
    quality = evaluate(pruned, tokenizer, "evaluation:code", parent=dense, window_length=24, window_count=8)
    assert float(increase) == pytest.approx(quality.mean.increase, abs=1e-4)
    assert (tmp_path / "on-disk" / "model.safetensors").is_file()


def test_a_tiny_model_is_pruned_and_evaluated(tiny_llama, tokenizer):
    model = tiny_llama()
    ids = Calibration("calibration", sequences=8, length=24).tokens(tokenizer)
    pruned = prune(model, ids, Settings(ratio=0.2, multiple=4))
    assert isinstance(pruned.plan, Plan)
    assert pruned.plan.removed >= 0.2
    assert pruned.model.num_parameters() < model.num_parameters()
    quality = evaluate(pruned.model, tokenizer, "evaluation", parent=model, window_length=24, window_count=8)
    windows = evaluation_tokens(tokenizer, comp_lib.load_text("evaluation"), 24, 8)
    with torch.no_grad():
        dense_loss = float(model(windows, labels=windows).loss)
        loss = float(pruned.model(windows, labels=windows).loss)
    assert quality.mean.loss == pytest.approx(loss, rel=1e-5)
    assert quality.mean.increase == pytest.approx(loss - dense_loss, abs=1e-4)


def test_what_is_exported_looked_up_and_shown_to_type_checkers_is_the_same():
    tree = ast.parse(Path(comp_lib.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    typed = {}  # name -> the module that it is imported from
    for statement in block.body:
        for alias in statement.names:
            typed[alias.asname or alias.name] = f"comp_lib.{statement.module}"
    assert typed == comp_lib._MODULES
    assert sorted(comp_lib.__all__) == sorted(["__version__", *typed])
    for name, module in typed.items():
        value = getattr(comp_lib, name)
        assert getattr(value, "__module__", module) == module, "it is looked up where it is defined"


def test_the_page_on_python_names_all_that_is_exported():
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    missing = [name for name in comp_lib.__all__ if not re.search(rf"\b{name}\b", page)]
    assert missing == ["__version__"]
