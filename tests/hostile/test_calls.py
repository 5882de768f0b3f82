"""Bad calls: each row is a command, what is wrong with it, and words of the line that refuses it.

A refused call ends with exit code 2, without a traceback, and leaves the disk as it was. Names in braces are
filled in from the fixture `folder`; `MODEL=` gives another model.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
import typer
from command import content, refused, run
from tools import plan_of_everything

from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.load import load_model
from comp_lib.cli.app import COMMANDS, app

pytestmark = pytest.mark.slow

CALLS = {  # the shortest call of each command that would work
    "demo": "demo --out {tmp}/out",
    "inspect": "inspect {model}",
    "prune": "prune {model} --out {tmp}/out --sequences 4 --length 32 --multiple 4 --judged-on none",
    "evaluate": "evaluate {model} --judged-on evaluation --window-length 64 --window-count 2",
    "generate": "generate {model} --prompt Hello --tokens 3",
    "compare": "compare {model} --out {tmp}/out --methods random --ratios 0.2"
    " --sequences 2 --length 32 --window-length 40",
    "export": "export {model} --gguf {tmp}/m.gguf",
    "report": "report {model} --out {tmp}/page.html --ratios 0.2",
    "heal": "heal {tmp}/pruned --parent {model} --out {tmp}/out --steps 2 --sequences 12 --length 16",
}
# Packages of extras. Without them a command says so before it looks at anything else.
NEEDS = {"heal": "peft", "report": "papermill"}
ROWS = [
    # --- numbers and words
    ("prune", "--ratio 0.95 --drop-layers 0", "at most"),
    ("prune", "--at-most 0", "above 0, such as 0.2nats"),
    ("prune", "--at-most -0.1", "above 0, such as 0.2nats"),
    ("prune", "--at-most 0.2nats --ratio 0.2", "ratio or at_most"),
    ("prune", "--preset papper", "did you mean 'paper'"),
    ("prune", "--drop-layers many", "Invalid value for '--drop-layers'"),
    ("prune", "--multiple 0", "Invalid value for '--multiple'"),
    ("prune", "--seed 18446744073709551616", "Invalid value for '--seed'"),
    ("prune", "--length 4096", "at most 128 tokens"),
    ("prune", "--dtype int8", "a dtype among float32, bfloat16, float16, got 'int8'"),
    ("prune", "--device quantum", "available device"),
    ("prune", "--method flap --preset best", "recovery to be least-squares with widths measured"),
    ("prune", "--sequences 0", "Invalid value for '--sequences'"),
    ("prune", "--kv-groups 9", "1 to 2 KV groups to keep in each layer, got 9"),
    ("compare", "--ratios 0.2,x", "--ratios as numbers between commas"),
    ("compare", "--methods cmop", "did you mean 'comp'"),
    ("compare", "--seeds 0", "Invalid value for '--seeds'"),
    ("compare", "--sequences 0", "sequences as a whole number above 0, got 0"),
    ("compare", "--length 1", "Invalid value for '--length'"),
    ("compare", "--window-count 0", "Invalid value for '--window-count'"),
    ("compare", "--window-length 1", "Invalid value for '--window-length'"),
    ("compare", "--multiple 0", "Invalid value for '--multiple'"),
    ("compare", "--workers 0", "Invalid value for '--workers'"),
    ("evaluate", "--tasks offline --window-count 3", "or --window-count, got both"),
    ("evaluate", "--tasks offline --window-length 64", "--tasks without --judged-on, --window-length or"),
    ("evaluate", "--window-count 0", "Invalid value for '--window-count'"),
    ("evaluate", "--dtype int8", "a dtype among float32, bfloat16, float16, got 'int8'"),
    ("evaluate", "--device quantum", "an available device"),
    ("evaluate", "--against build/nothere", "no folder build/nothere"),
    ("inspect", "--dtype int8", "a dtype among float32, bfloat16, float16, got 'int8'"),
    ("inspect", "--device quantum", "an available device"),
    ("generate", "--dtype int8", "a dtype among float32, bfloat16, float16, got 'int8'"),
    ("generate", "--device quantum", "an available device"),
    ("generate", "--prompt ''", "a prompt with some text, got an empty one"),
    ("generate", "--tokens 127", "within 128 tokens"),
    ("export", "--padded {tmp}/out", "got both"),
    ("export", "--type q2", "expected a type among f32, f16, "),
    ("report", "--ratios 0.2,x", "--ratios as numbers between commas"),
    ("report", "--ways beast", "did you mean 'best'"),
    ("report", "--at-most 0", "above 0, such as 0.2nats"),
    ("report", "--sequences 0", "Invalid value for '--sequences'"),
    ("report", "--seed -1", "Invalid value for '--seed'"),
    ("report", "--dtype int8", "a dtype among float32, bfloat16, float16, got 'int8'"),
    ("report", "--device quantum", "an available device with float64"),
    ("heal", "--length 4096", "at most 128 tokens"),
    ("heal", "--steps 0", "Invalid value for '--steps'"),
    ("heal", "--learning-rate x", "Invalid value for '--learning-rate'"),
    ("heal", "--sequences 1", "at least 12 sequences, of which 8 judge, got 1"),
    ("heal", "--seed -1", "Invalid value for '--seed'"),
    ("heal", "--device quantum", "an available device"),
    # --- models and texts
    ("inspect", "MODEL={tmp}/nobody", "a .gguf file or a Hub id (owner/name), got no folder"),
    ("inspect", "MODEL={tmp}/{long}", "too long"),
    ("inspect", "MODEL={escape}", r"\x1b[31m"),
    ("evaluate", "MODEL={tmp}/cut.gguf", "expected a complete GGUF file"),
    ("prune", "MODEL={tmp}/empty", "config.json"),
    ("prune", "MODEL={tmp}/{half}", r"\udcff"),
    ("prune", "--calibration {tmp}/no/such/file.txt", "a text file or the name of a text, got"),
    ("prune", "--calibration evaluation --judged-on evaluation", "the same"),
    ("prune", "--calibration {tmp}/short.txt", "tokens of calibration text"),
    ("evaluate", "--judged-on {tmp}/latin.txt", "UTF-8"),
    ("compare", "--calibration {tmp}/nowhere.txt", "a text file or the name of a text, got"),
    ("compare", "--judged-on {tmp}/nowhere.txt", "a text file or the name of a text, got"),
    ("report", "--calibration {tmp}/nowhere.txt", "a text file or the name of a text, got"),
    ("report", "--kinds dialog", "did you mean 'dialogue'"),
    ("report", "--against {tmp}/nobody", "got no folder"),
    ("heal", "--calibration {tmp}/nowhere.txt", "a text file or the name of a text, got"),
    ("heal", "--parent {tmp}/nobody", "got no folder"),
    ("heal", "MODEL={model}", "a file with a plan"),
    # --- places to write to
    ("prune", "--out {tmp}/mixed", "with files in it"),
    ("prune", "--out {tmp}/mixed --overwrite", "notes.txt"),
    ("prune", "--out {model} --overwrite", "a pruned model to overwrite"),
    ("prune", "--out ~no-such-user/out", "home"),
    ("prune", "--out {tmp}/short.txt", "a folder that can be written to, got"),
    ("demo", "--out {tmp}/mixed", "or set overwrite (--overwrite)"),
    ("compare", "--out {tmp}/mixed", "other files"),
    ("export", "--gguf {tmp}/no/where.gguf", "a folder that can be written to"),
    ("export", "--gguf {tmp}/short.txt", "or set overwrite (--overwrite)"),
    ("export", "--gguf {tmp}/empty", "which is there"),
    ("report", "--out {tmp}/no/where.html", "a folder that can be written to"),
    ("heal", "--out {tmp}/mixed", "with files in it"),
]


@pytest.fixture(scope="module")
def gguf(parent, tmp_path_factory):
    return export_gguf(parent, tmp_path_factory.mktemp("gguf") / "m.gguf", "f16").read_bytes()


@pytest.fixture
def folder(tmp_path, parent, gguf, monkeypatch, tmp_path_factory):
    """A folder of damaged and unsuitable files, as the working folder: the value of each name in braces."""
    (tmp_path / "short.txt").write_text("A few words.")
    (tmp_path / "latin.txt").write_bytes("Café. ".encode("latin-1") * 1000)
    (tmp_path / "cut.gguf").write_bytes(gguf[:-100])
    for name in ("empty", ".out.old-20251101", ".m.gguf.partial-20251101"):  # the last two look like ours
        (tmp_path / name).mkdir()
    (tmp_path / ".out.old-20251101" / "thesis.txt").write_text("mine")
    shutil.copytree(parent, tmp_path / "pruned")
    plan_of_everything(load_model(parent)[0]).save(tmp_path / "pruned" / "comp_plan.json")
    shutil.copytree(parent, tmp_path / "mixed")
    for name in ("comp_plan.json", "notes.txt", "table.md", "pruned.png"):
        (tmp_path / "mixed" / name).write_text("theirs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path_factory.mktemp("cache")))
    strange = {"half": "\udcff", "long": "n" * 300, "escape": "\x1b[31m"}
    return strange | {"tmp": tmp_path, "model": parent}


def tree(*folders):
    """Every path below these folders, and of files when they were last written."""
    times = {}
    for folder in folders:
        for path in folder.rglob("*"):
            times[path] = None if path.is_dir() else path.lstat().st_mtime_ns
    return times


@pytest.mark.parametrize(("command", "flags", "message"), ROWS, ids=lambda cell: cell[:40])
def test_a_bad_call_is_refused_and_changes_nothing(folder, parent, tmp_path, command, flags, message):
    if command in NEEDS:
        pytest.importorskip(NEEDS[command])
    call = shlex.split(CALLS[command])
    flags = shlex.split(flags)
    if flags and flags[0].startswith("MODEL="):
        call[1] = flags.pop(0).removeprefix("MODEL=")
    before = tree(tmp_path, parent)
    result = run(*(argument.format(**folder) for argument in (*call, *flags)))
    refused(result, [message])
    assert tree(tmp_path, parent) == before


def test_there_is_a_row_for_each_flag_that_takes_a_value():
    """But for --scheduler: `refused` wants one line, and its run says first how many runs there are."""
    missing = []
    for name, command in typer.main.get_command(app).commands.items():
        named = {word for row in ROWS if row[0] == name for word in shlex.split(row[1])}
        for parameter in command.params:
            flag = parameter.opts[0]
            if flag.startswith("--") and not parameter.is_flag and flag not in named:
                missing.append((name, flag))
    assert missing == [("compare", "--scheduler")]


def test_there_is_a_row_for_each_command():
    assert {row[0] for row in ROWS} == CALLS.keys() == {command.__name__ for command in COMMANDS} - {"doctor"}


def test_a_cache_in_a_home_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", "~no-such-user/x")
    refused(run("doctor"), ["~no-such-user/x"])


def test_the_program_itself_ends_in_one_line(python, tmp_path):
    command = [*python, "-m", "comp_lib", "evaluate", "smollm2-135m", "--judged-on", "nowhere.txt"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "nowhere.txt" in result.stderr
    assert content(tmp_path) == {}
