"""CONTRIBUTING's first change, played word for word in a copy of the repository.

The code goes where the page says, and the commands run as they stand there, in a shell that remembers. Only
`git clone` is left out, and `make check` runs the tests that the page names: the others run anyway.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(sys.prefix)
BLOCK = re.compile(r"^ *```(bash|python)\n(.*?)^ *```\n", re.MULTILINE | re.DOTALL)
AT_THE_END = re.compile(r"at the end of `([^`]+)`")
BELOW_A_LINE = re.compile(r"into `([^`]+)`, below the line `([^`]+)`")
BROKEN = re.compile(r"with `(\w+)` in place of `(\w+)`: the same two commands fail")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the copy is made from a git checkout"),
    pytest.mark.skipif(shutil.which("make") is None, reason="the page's commands need make"),
    pytest.mark.skipif(not (ENVIRONMENT / "bin" / "activate").exists(), reason="the page activates .venv"),
]


def first_change():
    """The section of the page in pieces: (prose before a block, language, block)."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    section = page.split("## A first change in ten minutes")[1].split("\n## ")[0]
    pieces = BLOCK.split(section)
    blocks = []
    for prose, language, block in zip(pieces[0::3], pieces[1::3], pieces[2::3], strict=False):
        blocks.append((" ".join(prose.split()), language, textwrap.dedent(block)))
    return blocks


def put(folder, prose, code):
    """Put code where the prose before it says, and return that file."""
    at_the_end = AT_THE_END.search(prose)
    if at_the_end:
        path = folder / at_the_end[1]
        path.write_text(path.read_text("utf-8") + code, "utf-8")
        return path
    name, line = BELOW_A_LINE.search(prose).groups()
    path = folder / name
    text = path.read_text("utf-8")
    assert len(re.findall(rf"^ *{re.escape(line)}$", text, re.MULTILINE)) == 1
    path.write_text(text.replace(f"{line}\n", f"{line}\n{code}"), "utf-8")
    return path


@pytest.fixture
def clone(tmp_path):
    """A copy of the files that git knows, with an environment in which all is installed."""
    folder = tmp_path / "comp-lib"
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv").mkdir(exist_ok=True)
        (folder / ".venv" / name).symlink_to(ENVIRONMENT / name)
    if (ROOT / ".mypy_cache").exists():  # without it mypy takes a minute
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    stamps = folder / ".venv" / "stamps"
    stamps.mkdir()
    (stamps / "venv").touch()
    (stamps / "dev").touch()
    return folder


@pytest.fixture
def terminal(clone):
    """Runs commands in the copy; what one exports the next one has. Returns the exit code and the output."""
    state = clone.parent / "state"
    state.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {
        "PYTHONPATH": str(clone),
        "PYTEST_ARGS": "tests/importance/test_neuron_metrics.py",
        "WORKERS": "0",
    }
    for person in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{person}_NAME": "A reader", f"GIT_{person}_EMAIL": "reader@example.org"}

    def run(commands):
        script = f"set -e\n. {state}\n{commands}\nexport -p > {state}"
        finished_process = subprocess.run(
            ["bash", "-c", script],
            cwd=clone,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return finished_process.returncode, finished_process.stdout

    code, output = run("git init -q && git add . && git commit -qm before")
    assert code == 0, output
    return run


def test_the_first_change_passes_its_own_last_step(clone, terminal):
    changed = []
    commands = ""
    blocks = first_change()
    assert [language for _, language, _ in blocks].count("python") == 2
    for prose, language, block in blocks:
        broken = BROKEN.search(prose)
        if broken:
            wrong, right = broken.groups()
            metric = changed[0]
            mended = metric.read_text("utf-8")
            assert right in mended
            metric.write_text(mended.replace(right, wrong), "utf-8")
            code, output = terminal(commands)
            assert code != 0
            assert "test_scores_of_the_metrics_that_only_look" in output
            metric.write_text(mended, "utf-8")
        if language == "python":
            changed.append(put(clone, prose, block))
            continue
        commands = re.sub(r"^git clone .*\n", "", block)
        code, output = terminal(commands)
        assert code == 0, f"{commands}\n{output[-3000:]}"
    code, output = terminal("git show --stat --format=%s")
    assert output.startswith("A metric: loudest")
    assert "2 files changed" in output
    assert broken, "the page breaks its metric before the last step"
