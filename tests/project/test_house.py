"""The layout of the package: forbidden imports, who knows what a layer looks like, docstrings, examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import comp_lib

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "comp_lib"
# Code that uses a part of a transformers model by its name.
INTERNALS = re.compile(
    r"\.(?:mlp|self_attn|lm_head|embed_tokens|rotary_emb|[a-z]+_proj)\b|model_type ==|\.model\.layers\b"
)
# Files outside of `decoder` that may: a model on disk reads its parts one by one.
MAY_USE_PARTS = {"checkpoints/from_disk/model_on_disk.py"}
# A string that is the name of a tensor or its beginning; prose has spaces, and may speak of o_proj.
TENSOR_NAME = re.compile(
    r"(?!.*\s).*(?:model\.layers|model\.norm|lm_head|embed_tokens|rotary_emb|self_attn|mlp\.|layernorm|_proj\b)"
)
# Files outside of `decoder` that may: they read or write the tensors of a folder or a file by their names.
MAY_NAME_TENSORS = {
    "checkpoints/from_disk/sink.py",
    "checkpoints/from_disk/model_on_disk.py",
    "checkpoints/gguf/architectures.py",
    "checkpoints/file_checks.py",
    "checkpoints/padded.py",
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run([tool, "--no-cache"], cwd=folder, capture_output=True, text=True, env=environment)


def test_a_planted_upward_import_and_a_planted_circle_break_their_contracts(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "comp_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert "BROKEN" not in lint_imports(tmp_path).stdout
    for name, line in (
        ("hybrid_granularity/plan", "from ..pruning.comp import prune"),
        ("importance/statistics/solve", "from .sums import Statistics"),
    ):
        path = tmp_path / "comp_lib" / f"{name}.py"
        path.write_text(f"{path.read_text('utf-8')}\n{line}  # noqa\n", "utf-8")
    broken = lint_imports(tmp_path)
    assert broken.returncode == 1
    assert "comp_lib.hybrid_granularity is not allowed to import comp_lib.pruning" in broken.stdout
    assert "No import goes in a circle BROKEN" in broken.stdout


def parsed_files() -> Iterator[tuple[str, ast.Module]]:
    """The path of each file in the package, and its syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text("utf-8"))


def uses_of_parts(tree: ast.Module) -> list[str]:
    """Expressions that use a part of a transformers model by its name."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Compare))
    return [ast.unparse(node) for node in nodes if INTERNALS.search(ast.unparse(node))]


def names_of_tensors(tree: ast.Module) -> list[str]:
    """Strings that are the name of a tensor or a piece of it; a docstring is none."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [node.value for node in nodes if isinstance(node.value, str) and TENSOR_NAME.match(node.value)]


@pytest.mark.parametrize(
    ("find", "permitted"), [(uses_of_parts, MAY_USE_PARTS), (names_of_tensors, MAY_NAME_TENSORS)]
)
def test_only_the_decoder_and_a_few_files_know_what_a_layer_looks_like(find, permitted):
    uses = {}  # file -> what it uses
    for name, tree in parsed_files():
        if not name.startswith("decoder/") and find(tree):
            uses[name] = find(tree)
    assert {name: uses[name] for name in uses.keys() - permitted} == {}
    assert permitted <= uses.keys(), "who does not use it needs no permission"


@pytest.mark.parametrize(
    ("code", "uses", "names"),
    [
        ("layer.mlp.down_proj", 2, 0),
        ("model.model.layers[0]", 1, 0),
        ("config.model_type == 'llama'", 1, 0),
        ("f'model.layers.{index}.{name}'", 0, 1),
        ("read('lm_head.weight')", 0, 1),
        ("'mlp.down_proj'", 0, 1),
        ("part.output_linear.in_features", 0, 0),
        ("mlp.error", 0, 0),
        ("'the error of o_proj, 0 to 1'", 0, 0),
    ],
)
def test_what_counts_as_such_knowledge(code, uses, names):
    tree = ast.parse(code)
    assert (len(uses_of_parts(tree)), len(names_of_tensors(tree))) == (uses, names)


def test_every_docstring_begins_with_a_sentence_on_a_line_of_its_own():
    """`help` and editors show that line alone; each module has one."""
    wrong = []
    for name, tree in parsed_files():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            docstring = ast.get_docstring(node)
            if docstring is None and not isinstance(node, ast.Module):
                continue
            lines = (docstring or "").splitlines() + ["", ""]
            if not lines[0].endswith((".", ":", "?")) or lines[1]:
                wrong.append(f"{name}: {getattr(node, 'name', 'the module')}: {lines[0]}")
    assert wrong == []


def modules_with_examples() -> list[str]:
    """Names of the modules whose docstrings have examples."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text("utf-8")]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings_hold(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0, "the examples that failed are printed above"


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_what_the_package_has(script):
    """A benchmark takes hours, so no test runs it; the names that it imports must exist all the same."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("comp_lib"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                is_attribute = hasattr(module, alias.name)
                assert is_attribute or importlib.util.find_spec(f"{node.module}.{alias.name}"), alias.name


CORE = (
    "utils",
    "decoder",
    "calibration",
    "evaluation",
    "importance",
    "recovery",
    "hybrid_granularity",
    "pruning",
)
LOADING_AND_DRAWING = {"comp_lib.checkpoints.load", "comp_lib.reports.plots"}
# What a lesson takes from above the core besides, until it is taught without.
ALSO_IN_LESSONS = {"00_start_here": {"comp_lib.reports.speed"}, "02_matrix_condition": {"comp_lib.reports"}}


def modules_of_a_lesson(path: Path) -> set[str]:
    """The modules of comp_lib that the cells of a notebook import, also by a name of comp_lib itself."""
    modules = set()
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or source.startswith("%"):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module == "comp_lib":
                modules |= {comp_lib._MODULES[alias.name] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("comp_lib."):
                modules.add(node.module)
    return modules


@pytest.mark.parametrize(
    "lesson", sorted((ROOT / "notebooks").glob("0[0-5]_*.ipynb")), ids=lambda path: path.stem
)
def test_a_core_lesson_stands_on_the_thin_core(lesson):
    modules = modules_of_a_lesson(lesson)
    assert modules, "it imports the library that it teaches"
    above = {name for name in modules if name.split(".")[1] not in CORE}
    assert above - LOADING_AND_DRAWING == ALSO_IN_LESSONS.get(lesson.stem, set())
