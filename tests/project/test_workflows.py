"""The workflows: each file is one, and the teacher's commands for Windows run in one of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEACHING = (ROOT / "notebooks" / "TEACHING.md").read_text("utf-8")


def jobs_of(path):
    return yaml.safe_load(path.read_text("utf-8"))["jobs"]


def run_lines(job):
    """All lines that the steps of a job type."""
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_jobs_that_end_and_steps_that_do_something(path):
    document = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "permissions", "jobs"} <= document.keys()
    assert True in document  # YAML reads the key `on` as true
    for name, job in document["jobs"].items():
        assert {"runs-on", "steps", "timeout-minutes"} <= job.keys(), name
        assert {job["needs"]} <= document["jobs"].keys() if "needs" in job else True
        assert job["steps"]
        for step in job["steps"]:
            assert len(step.keys() & {"uses", "run"}) == 1, f"{name}: {step}"


def test_the_teachers_commands_for_windows_run_on_windows():
    [block] = re.findall(r"```powershell\n(.*?)```", TEACHING, re.DOTALL)
    job = jobs_of(ROOT / ".github" / "workflows" / "tests.yml")["teaching"]
    assert job["runs-on"] == "windows-latest"
    typed = run_lines(job)
    for command in block.replace("py -3.12 ", "python ").splitlines():
        assert [line for line in typed if f"{line} ".startswith(f"{command} ")], command
    assert any("lab.py --no-solutions" in line for line in typed)
    assert not [line for line in typed if re.search(r"\bmake\b", line)]


def test_scripts_that_the_teachers_commands_name_are_there():
    job = jobs_of(ROOT / ".github" / "workflows" / "tests.yml")["teaching"]
    scripts = re.findall(
        r"python ((?:\.ci|comp-lib|notebooks)\\\S+\.py)", "\n".join([TEACHING, *run_lines(job)])
    )
    assert len(scripts) > 8
    for script in scripts:
        path = ROOT / script.replace("\\", "/").removeprefix("comp-lib/")
        assert path.is_file(), script
