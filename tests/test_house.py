"""The layout of the package: forbidden imports are found, and only families know what a layer looks like."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "comp_lib"
# Names of parts of a transformers model. own_widths makes model classes, and so knows of them.
INTERNALS = re.compile(
    r"\.(?:mlp|self_attn|lm_head|embed_tokens|rotary_emb|[a-z]+_proj)\b|model_type ==|\.model\.layers\b"
)
MAY_KNOW = ("families/", "models/own_widths.py", "models/meta_model.py", "disk/model_on_disk.py")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run([tool, "--no-cache"], cwd=folder, capture_output=True, text=True, env=environment)


def test_a_planted_upward_import_and_a_planted_circle_break_their_contracts(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "comp_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert "BROKEN" not in lint_imports(tmp_path).stdout
    for name, line in (("plan", "from .comp import prune"), ("statistics/solve", "from .gram import Gram")):
        path = tmp_path / "comp_lib" / f"{name}.py"
        path.write_text(f"{path.read_text('utf-8')}\n{line}  # noqa\n", "utf-8")
    broken = lint_imports(tmp_path)
    assert broken.returncode == 1 and "comp_lib.plan is not allowed to import comp_lib.comp" in broken.stdout
    assert "No import goes in a circle BROKEN" in broken.stdout


def test_only_families_know_what_a_layer_looks_like():
    violations = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(MAY_KNOW):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Compare))
        for node in nodes:
            text = ast.unparse(node)
            if INTERNALS.search(text):
                violations.append(f"{name}:{node.lineno} {text}")
    assert not violations, "\n".join(violations)


def test_every_room_says_what_is_in_it():
    for path in PACKAGE.rglob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        assert len(docstring) > 20 and "TODO" not in docstring, path


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_what_the_package_has(script):
    """A benchmark takes hours, so no test runs it; the names that it imports must exist all the same."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("comp_lib"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                is_attribute = hasattr(module, alias.name)
                assert is_attribute or importlib.util.find_spec(f"{node.module}.{alias.name}"), alias.name
