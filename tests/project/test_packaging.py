"""The set-up: what is promised in one project file must be so in the others."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint, packages_distributions, version
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import comp_lib
from comp_lib.cli.app import app
from comp_lib.decoder.own_widths.register import register_all

pytestmark = pytest.mark.slow

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

# What has another name on conda-forge than on PyPI.
CONDA_NAMES = {"torch": "pytorch", "build": "python-build", "lm-eval": "lm_eval"}


def _conda_requirements() -> dict[str, SpecifierSet]:
    requirements = []
    for entry in yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]:
        requirements += [entry] if isinstance(entry, str) else entry["pip"]
    matches = [re.fullmatch(r"([a-z0-9_.-]+)(.*)", line) for line in requirements if line != "-e ."]
    return {match[1]: SpecifierSet(match[2]) for match in matches if match}


def test_environment_yml_asks_for_the_same_as_pyproject():
    extras = PROJECT["optional-dependencies"]
    expected = {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}
    shared = ("plots", "notebooks", "report", "evaluate", "gguf", "distributed", "heal", "book", "dev")
    for line in PROJECT["dependencies"] + [line for extra in shared for line in extras[extra]]:
        requirement = Requirement(line)
        if requirement.name != PROJECT["name"]:  # dev names other extras through the project itself
            expected[CONDA_NAMES.get(requirement.name, requirement.name)] = requirement.specifier
    assert _conda_requirements() == expected


def test_dependencies_are_few_and_ranges():
    assert len(PROJECT["dependencies"]) == 13
    lines = PROJECT["dependencies"] + [
        line for extra in PROJECT["optional-dependencies"].values() for line in extra
    ]
    for requirement in map(Requirement, lines):
        if requirement.name != PROJECT["name"]:
            operators = {specifier.operator for specifier in requirement.specifier}
            assert ">=" in operators, f"not a range: {requirement}"
            assert operators <= {">=", "<", "!="}, f"not a range: {requirement}"


def test_what_comp_lib_imports_is_declared():
    """Nothing comes only because somebody else's package brings it."""
    lines = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    imported = set()
    for path in (ROOT / "comp_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    distributions = packages_distributions()
    for package in imported - sys.stdlib_module_names - {"comp_lib"}:
        names = distributions.get(package, [package])  # an extra that is not installed here
        assert declared & {canonicalize_name(name) for name in names}, package


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert comp_lib.__version__ == version("comp-lib") == PROJECT["version"] == citation["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "2501.15255" in citation["preferred-citation"]["url"]


def test_readme_opens_with_commands_that_are_there():
    block = re.search(r"```bash\n(.*?)```", README, re.DOTALL)[1].splitlines()
    assert [line.split()[0] for line in block] == ["git", "make", ".venv/bin/comp-lib", "make"]
    for target in ("demo", "lab", *re.findall(r"`make ([a-z]+)`", README)):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
    commands = set(re.findall(r"`comp-lib ([a-z]+)", README))
    assert {"prune", "report", "evaluate"} <= commands <= set(typer.main.get_command(app).commands)


def test_every_stored_row_has_the_interval_of_its_mean():
    for row in json.loads((ROOT / "benchmarks/kinds.json").read_text("utf-8")):
        low, high = row["interval"]
        assert low < row["mean"] < high


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text("utf-8"))
    assert links or page != ROOT / "README.md"
    assert not [link for link in links if not (page.parent / link).exists()]


def test_pages_show_the_stored_comparison(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("readme")
    for name in script.PAGES:
        assert script.page(name) == (ROOT / name).read_text("utf-8"), "run python benchmarks/readme.py"
    for table in (*map(script.losses, (script.INCLUDED_MODEL, script.SECOND)), script.cost(), script.tasks()):
        assert "| COMP `stock` |" in table
        assert "| LLM-Pruner |" in table
    common = importlib.import_module("common")
    settings = {"method": "comp", "widths": "uniform", "aim": "self", "ridge": "auto", "ratio": 0.2}
    assert common.preset(settings) == "stock"
    assert common.preset(settings | {"ratio": 0.3}) == "stock, target self"
    assert common.preset(settings | {"aim": "dense", "ratio": 0.3}) == "stock"
    assert common.preset({"method": "flap", "recovery": "least-squares"}) == "our refit"


def test_python_names_exist():
    """Every import that the pages show works; relative ones are those of a module of comp_lib/recovery."""
    pages = "\n".join(page.read_text("utf-8") for page in PAGES)
    blocks = re.findall(r"```python\n(.*?)```", pages, re.DOTALL)
    imports = re.findall(r"^from .* import .*$", "\n".join(blocks), re.MULTILINE)
    assert imports
    for line in imports:
        exec(line, {"__package__": "comp_lib.recovery"})


def test_options_exist():
    """Every command that the pages show has the options that they give it."""
    commands = typer.main.get_command(app).commands
    options = {}
    for name, command in commands.items():
        options[name] = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    pages = "\n".join(page.read_text("utf-8") for page in PAGES).replace("\\\n", " ")
    calls = re.findall(r"comp-lib ([a-z]+) ([^\n`#]*--[^\n`#]*)", pages)
    used = {(name, option) for name, line in calls for option in re.findall(r"--[a-z-]+", line)}
    assert len(used) > 15
    assert not [(name, option) for name, option in used if option not in options[name]]


def test_no_place_of_one_machine_in_project_files():
    """No absolute path of somebody's machine, and no package index but PyPI and PyTorch's own."""
    folder = r"/(?:home|root|Users|work)/\w|[A-Z]:\\+Users\\"
    index = r"(?:index-url|find-links)[=\s]+(?!https://download\.pytorch\.org/)\S+|://[^/\s]+/simple\b"
    local = re.compile(f"{folder}|{index}")
    endings = {".py", ".md", ".json", ".ipynb", ".toml", ".yml", ".cff", ""}
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    names = listing.stdout.splitlines()
    names.remove("tests/lessons/test_notebooks.py")  # it shows its guards such paths, to see them refused
    files = [ROOT / name for name in names if Path(name).suffix in endings and (ROOT / name).is_file()]
    matches = []
    for file in files:
        for match in local.finditer(file.read_text("utf-8")):
            matches.append(f"{file.relative_to(ROOT)}: {match[0][:80]}")
    assert len(files) > 100
    assert not matches, "\n".join(matches)


# Folders whose modules need an extra.
OF_EXTRAS = ("reports",)


def test_what_modules_import_at_once_comes_without_extras():
    core = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    missing = set()
    for path in (ROOT / "comp_lib").rglob("*.py"):
        if path.relative_to(ROOT / "comp_lib").parts[0] in OF_EXTRAS:
            continue
        for statement in ast.parse(path.read_text("utf-8")).body:
            packages = []
            if isinstance(statement, ast.Import):
                packages = [alias.name.split(".")[0] for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
                packages = [str(statement.module).split(".")[0]]
            for package in set(packages) - sys.stdlib_module_names - {"comp_lib"}:
                if canonicalize_name(package) not in core:
                    missing.add(f"{path.relative_to(ROOT / 'comp_lib')}: {package}")
    assert not missing


HEAVY = (
    ("torch", "transformers", "numpy"),
    ("matplotlib", "pandas", "seaborn", "scipy", "distributed", "accelerate"),
)


def test_an_import_loads_no_more_than_it_needs():
    code = f"import sys, comp_lib; print([name for name in {sum(HEAVY, ())} if name in sys.modules]); "
    code += "from comp_lib import Settings, prune; assert callable(prune) and Settings; "
    code += f"print([name for name in {HEAVY[1]} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["[]", "[]"]


def test_public_names():
    assert all(getattr(comp_lib, name) is not None for name in comp_lib.__all__)


OURS = {"comp_lib/py.typed", "comp_lib/__main__.py", "comp_lib/reports/checkup/checkup.ipynb"}


def test_wheel_carries_the_texts(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        "calibration.txt",
        "evaluation.txt",
        "beginnings.json",
        "tasks/reader.py",
        "tasks/_grammar_template",
    }
    tasks = ROOT / "data" / "tasks"
    for path in [*tasks.glob("*.yaml"), *tasks.glob("*.jsonl")]:
        expected.add(f"tasks/{path.name}")
    (written,) = (ROOT / "data" / "written").glob("*.json")
    expected.add(f"written/{written.name}")
    assert {f"comp_lib/data/{name}" for name in expected} | OURS <= names
    assert not [name for name in names if name.startswith(("tests/", "data/", "build/"))]


def test_vllm_is_told_where_register_all_is():
    ((_, target),) = PROJECT["entry-points"]["vllm.general_plugins"].items()
    assert EntryPoint("comp-lib", target, "vllm.general_plugins").load() is register_all
