"""The front door: what `comp_lib` exports has real types, and a user's file that uses all of it runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USERS_FILE = """\
import torch

from comp_lib import Calibration, Plan, Settings, evaluate, load_model, prune, prune_model
from comp_lib.importance.neurons import Problem, Selection, metric, top
from comp_lib.models.save import Provenance, save_checkpoint
from comp_lib.shape import Shape


@metric("loudest")
def loudest(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    energy = problem.statistics.diagonal() * problem.weight.abs().amax(1)
    return top(problem.per_block(energy), keep)


model, tokenizer = load_model("PARENT")
text = Calibration("calibration", sequences=8, length=24)
pruned = prune(model, text.tokens(tokenizer), Settings(ratio=0.2, method="loudest", multiple=4))
quality = evaluate(pruned.model, tokenizer, "evaluation:code", against=model, length=24, sequences=8)
card = Provenance("PARENT", Shape.of(model), "8 x 24 tokens")
folder = save_checkpoint("in-memory", pruned.model, tokenizer, pruned.plan, card)
verdict = prune_model("PARENT", "on-disk", 0.2, calibration=text, multiple=4, evaluated="none")
plan: Plan = verdict.plan
print(folder, plan.removed, quality.mean["increase"])
"""
MISTAKES = {
    "prune(model)": "Missing positional argument",
    'prune(model, text, Settings(ratio="a fifth"))': "incompatible type",
    'prune_model("PARENT", "out", sequence=3)': "Unexpected keyword argument",
    "evaluate(model)": "Missing positional argument",
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
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder, removed, increase = done.stdout.split()
    assert folder == "in-memory" and 0.2 <= float(removed) < 0.5 and abs(float(increase)) < 1.0
    assert (tmp_path / "in-memory" / "model.safetensors").is_file()
    assert (tmp_path / "on-disk" / "model.safetensors").is_file()
