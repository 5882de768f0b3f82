"""Hostile calls: each row is a command, what is wrong with it, and words of the one line that refuses it.

A refused call leaves the disk as it was. A new finding is a new row; `MODEL=` stands for another model, and what is in
braces for what `place` has prepared.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil

import pytest
from command import refused, run

from comp_lib.on_device.gguf_export import export_gguf
from comp_lib.plan import Plan

CALLS = {  # the least that each command needs
    "prune": "prune {model} --out {tmp}/out --sequences 4 --length 32 --multiple 4 --evaluate none",
    "inspect": "inspect {model} --sequences 2 --length 16",
    "generate": "generate {model} --prompt Hello --tokens 3",
    "demo": "demo --out {tmp}/out",
    "evaluate": "evaluate {model} --text evaluation --length 64 --sequences 2",
    "compare": "compare {model} --out {tmp}/out --methods random --ratios 0.2 --sequences 2 --length 32 --window 40",
    "export": "export {model} --gguf {tmp}/m.gguf",
    "export for vLLM": "export {model} --vllm --out {tmp}/out",
    "chat": "chat {gguf} --prompt Hi --tokens 3 --threads 1",
    "benchmark": "benchmark {model} --rounds 1 --prompt 8 --tokens 3 --threads 1",
    "cache": "cache",
    "plan": "plan {model} --budget latency=0.7 --sequences 4 --length 32 --multiple 4",
    "heal": "heal {model} --parent {model} --out {tmp}/out --steps 2 --batch 2 --sequences 12 --length 16",
    "report": "report {model} --out {tmp}/page.html --kinds prose --ratios 0.2 --minutes 0.1",
}
NEEDS = {"heal": "peft", "report": "papermill"}  # packages of extras, without which a command says so before all else
ROWS = [
    ("cache", "--clear ''", "models, statistics"),
    ("cache", "--clear everything", "models, statistics"),
    ("chat", "--prompt ''", "prompt"),
    ("evaluate", "--text ''", "got no name"),
    ("prune", "--calibration general+", "got no name"),
    ("prune", "--dtype int8", "--dtype to be"),
    ("prune", "--attentions 50", "attentions"),
    ("prune", "--out {model}/inside", "apart from the model"),
    # --- what does not go together, or cannot be
    ("compare", "--text-kinds --evaluate evaluation", "leave one out"),
    ("chat", "--type q8_0", "leave it out"),
    ("benchmark", "--type nonsense", "a type among"),
    ("benchmark", "--dtype nonsense", "a dtype among"),
    ("prune", "--memory 3GB --scheduler tcp://127.0.0.1:1", "leave one out"),
    ("prune", "--method flap --widths per-layer", "expected widths to be uniform"),
    ("prune", "--budget latency=0.7 --sequences 1", "at least 2 calibration sequences"),
    ("prune", "--preset best --search 3 --sequences 2", "at least 3 calibration sequences"),
    ("plan", "--sequences 1", "at least 2 calibration sequences"),
    ("prune", "--recovery mask --aim dense", "expected --aim where it decides something"),
    ("prune", "--method flap --layer-metric greedy", "expected --layer-metric where it decides something"),
    # --- numbers
    ("prune", "--ridge inf", "ridge"),
    ("prune", "--ridge nan", "ridge"),
    ("prune", "--ridge -1", "ridge"),
    ("prune", "--ridge 1e300", "ridge"),
    ("prune", "--ridge word", "ridge"),
    ("prune", "--ratio inf", "between 0 and 1"),
    ("prune", "--ratio -0.1", "between 0 and 1"),
    ("prune", "--layers inf", "layers"),
    ("prune", "--layers nan", "layers"),
    ("prune", "--layers 1e300", "layers"),
    ("prune", "--layers {digits}", "layers"),
    ("prune", "--layers 1000000000", "layers"),
    ("prune", "--seed -1", "--seed"),
    ("prune", "--seed 18446744073709551616", "--seed"),
    ("prune", "--seed {digits}", "--seed"),
    ("prune", "--sequences 1000000000", "--sequences"),
    ("prune", "--sequences 0", "--sequences"),
    ("prune", "--sequences -5", "--sequences"),
    ("prune", "--length 1000000000", "--length"),
    ("prune", "--length 1", "--length"),
    ("prune", "--length 4096", "128"),
    ("prune", "--sequences 100000 --length 128 --calibration calibration", "tokens"),
    ("prune", "--multiple -4", "--multiple"),
    ("prune", "--multiple 1000000000", "--multiple"),
    ("prune", "--kv-groups 0", "--kv-groups"),
    ("prune", "--kv-groups 1000000000", "--kv-groups"),
    ("prune", "--budget latency=nan", "budget"),
    ("prune", "--budget latency=inf", "budget"),
    ("prune", "--budget =", "budget"),
    ("prune", "--memory 3", "memory such as 3GB"),
    ("prune", "--memory ''", "memory such as 3GB"),
    ("prune", "--memory -3GB", "memory such as 3GB"),
    ("prune", "--memory infGB", "memory such as 3GB"),
    ("prune", "--memory {digits}GB", "memory from 1MB"),
    ("prune", "--memory 2MB", "--memory of at least"),
    ("prune", "--memory a{nul}b", "NUL"),
    ("prune", "--memory 3GB --method llm-pruner --recovery none", "layer by layer"),
    ("prune", "--memory 3GB --widths measured", "uniform or per-layer"),
    ("prune", "--shards 0 --scheduler tcp://127.0.0.1:1", "--shards"),
    ("prune", "--shards 1000000 --scheduler tcp://127.0.0.1:1", "--shards"),
    ("prune", "--shards {digits} --scheduler tcp://127.0.0.1:1", "--shards"),
    ("prune", "--shards 4", "--shards with --scheduler"),
    ("prune", "--shards 129 --scheduler tcp://127.0.0.1:1 --sequences 128", "1 to 128 shards"),
    ("prune", "--scheduler {long}", "Dask scheduler"),
    ("prune", "--scheduler ''", "Dask scheduler"),
    ("prune", "--scheduler a{nul}b", "NUL"),
    ("prune", "--scheduler {half}", "UTF-8"),
    ("prune", "--scheduler tls://127.0.0.1:1", "Dask scheduler"),
    ("prune", "--scheduler what://127.0.0.1:1", "Dask scheduler"),
    ("prune", "--scheduler tcp://127.0.0.1:1 --search 3", "a search, which needs the whole model"),
    ("prune", "--scheduler tcp://127.0.0.1:1 --budget latency=0.7", "a budget in time, which needs"),
    ("prune", "--scheduler tcp://127.0.0.1:1 --method llm-pruner", "llm-pruner, which needs the whole model"),
    ("heal", "--rate inf", "rate above 0"),
    ("heal", "--rate nan", "rate above 0"),
    ("heal", "--rate 1e30", "rate of at most 1"),
    ("heal", "--steps {digits}", "--steps"),
    ("heal", "--rank 1000000000", "--rank"),
    ("heal", "--batch 100", "at least 108 sequences"),
    ("heal", "--length 4096", "128"),
    ("heal", "--sequences 100000 --length 128 --text calibration:prose", "tokens of calibration text"),
    ("heal", "--parent ''", "config.json"),
    ("heal", "--parent {tmp}/nobody", "nobody"),
    ("heal", "--text {tmp}/nobody.txt", "nobody.txt"),
    ("heal", "--text 'written:0'", "share above 0"),
    ("heal", "--seed {digits}", "--seed"),
    ("heal", "--out {tmp}/theirs", "with files in it"),
    ("heal", "--out {tmp}/mixed --overwrite", "notes.txt"),
    ("heal", "--out {model} --overwrite", "apart from the model"),
    ("report", "--minutes nan", "minutes above 0"),
    ("report", "--minutes inf", "minutes above 0"),
    ("report", "--ratios 1e300", "between 0 and 1"),
    ("report", "--ratios {many}", "1 to 8"),
    ("report", "--allowed nan", "allowed loss"),
    ("report", "--seed {digits}", "--seed"),
    # --- what no plan can meet
    ("prune", "--layers 3", "layers"),
    ("prune", "--layers 30", "layers"),
    ("prune", "--ratio 0.999", "at most"),
    ("prune", "--ratio 0.999 --method flap", "at most"),
    ("compare", "--ratios 0.2,0.999", "at most"),
    # --- files of somebody else
    ("prune", "--out {tmp}/taken", "for the work in progress"),
    ("prune", "--out {tmp}/mixed", "--overwrite"),
    ("prune", "--out {tmp}/mixed --overwrite", "notes.txt"),
    ("prune", "--out {tmp}/mixed --overwrite --method llm-pruner", "notes.txt"),
    ("export", "--gguf {tmp}/letter.json", "a GGUF file to overwrite"),
    ("export", "--gguf {tmp}/letter.json --overwrite", "a GGUF file to overwrite"),
    ("export", "--gguf {model}/model.safetensors --overwrite", "a GGUF file to overwrite"),
    ("export", "--gguf {tmp}/pipe --overwrite", "an ordinary file"),
    ("plan", "--out {tmp}/letter.json", "--overwrite"),
    ("plan", "--out {tmp}/comp_plan.json", "--overwrite"),
    ("prune", "--budget latency=0.75 --attentions 1", "all attentions"),
    ("prune", "--budget latency=0.75 --preset best", "uniform widths"),
    ("plan", "--out {tmp}/pipe --overwrite", "an ordinary file"),
    ("benchmark", "--json {tmp}/letter.json", "--overwrite"),
    ("benchmark", "--figure {tmp}/theirs.png", "--overwrite"),
    ("benchmark", "--json {tmp}/one.png --figure {tmp}/one.png", "expected two files"),
    ("benchmark", "--json {gguf} --overwrite", "a file that holds no model"),
    ("plan", "--out {model}/model.safetensors --overwrite", "a file that holds no model"),
    ("prune", "--out .", "apart from the one you are in"),
    ("evaluate", "--text kinds --figure {tmp}/theirs.png", "--overwrite"),
    ("compare", "--out {tmp}/theirs", "--overwrite"),
    ("demo", "--out {tmp}/theirs", "--overwrite"),
    ("inspect", "--seed -1", "--seed"),
    ("inspect", "--seed {digits}", "--seed"),
    ("inspect", "--sequences 1000000000", "--sequences"),
    ("inspect", "--length 0", "--length"),
    ("generate", "--tokens 0", "--tokens"),
    ("generate", "--tokens -1", "--tokens"),
    ("generate", "--tokens 1000000000", "--tokens"),
    ("generate", "--tokens 127", "within 128 tokens"),
    ("generate", "--prompt ''", "prompt"),
    ("generate", "--prompt {million}", "--prompt"),
    ("generate", "--prompt a{nul}b", "--prompt"),
    ("generate", "--prompt {half}", "--prompt"),
    ("evaluate", "--length 1", "--length"),
    ("evaluate", "--length 1000000000", "--length"),
    ("evaluate", "--length 4096", "128"),
    ("evaluate", "--sequences 0", "--sequences"),
    ("evaluate", "--sequences 1000000000", "--sequences"),
    ("evaluate", "--sequences 1000000", "evaluation text"),
    ("compare", "--seeds 10000000", "--seeds"),
    ("compare", "--seeds 0", "--seeds"),
    ("compare", "--seeds 1000 --sequences {many}", "at most 100,000 runs"),
    ("compare", "--windows 1", "--windows"),
    ("compare", "--windows 1000000000", "--windows"),
    ("compare", "--window 1000000000", "--window"),
    ("compare", "--sequences 1000000000", "at most 100"),
    ("compare", "--sequences -1", "at least 1 sequence"),
    ("compare", "--sequences x", "whole numbers"),
    ("compare", "--ratios nan", "between 0 and 1"),
    ("compare", "--ratios ,", "at least one ratio"),
    ("compare", "--workers 1000000", "1 to 256 workers"),
    ("compare", "--workers 0", "1 to 256 workers"),
    ("compare", "--scheduler {long}", "Dask scheduler"),
    ("compare", "--scheduler tls://127.0.0.1:1", "Dask scheduler"),
    ("compare", "--scheduler what://127.0.0.1:1", "Dask scheduler"),
    ("chat", "--tokens 0", "--tokens"),
    ("chat", "--tokens -1", "--tokens"),
    ("chat", "--tokens 1000000000", "--tokens"),
    ("chat", "--context 1", "--context"),
    ("chat", "--context 0", "--context"),
    ("chat", "--context 1000000000", "--context"),
    ("chat", "--context 129", "at most 128 tokens"),
    ("chat", "--threads -1", "--threads"),
    ("chat", "--threads 100000", "--threads"),
    ("benchmark", "--threads 0", "--threads"),
    ("benchmark", "--threads -1", "--threads"),
    ("benchmark", "--threads 100000", "--threads"),
    ("benchmark", "--rounds 0", "--rounds"),
    ("benchmark", "--rounds 1000000000", "--rounds"),
    ("benchmark", "--prompt 0", "--prompt"),
    ("benchmark", "--prompt 1000000000", "--prompt"),
    ("benchmark", "--tokens 0", "--tokens"),
    ("plan", "--trials -1", "--trials"),
    ("plan", "--trials 1000000000", "--trials"),
    ("plan", "--seed -1", "--seed"),
    ("plan", "--budget latency=1e999", "budget"),
    ("plan", "--sequences 1000000000", "--sequences"),
    # --- models
    ("inspect", "MODEL={tmp}/loop", "symbolic links"),
    ("inspect", "MODEL={tmp}/{long}", "too long"),
    ("inspect", "MODEL={tmp}/a{nul}b", "NUL"),
    ("inspect", "MODEL={tmp}/{half}", "UTF-8"),
    ("inspect", "MODEL=", "config.json"),
    ("inspect", "MODEL={tmp}/notes[/red].txt", "notes[/red].txt"),
    ("inspect", "MODEL=/dev/null", "/dev/null"),
    ("inspect", "MODEL={escape}", r"\x1b[31m"),
    ("prune", "MODEL={tmp}/loop", "symbolic links"),
    ("prune", "MODEL={tmp}/empty", "config.json"),
    ("inspect", "MODEL=~no-such-user/model", "a home that is there"),
    ("generate", "MODEL={tmp}/loop/model", "symbolic links"),
    ("evaluate", "MODEL={tmp}/loop", "symbolic links"),
    ("evaluate", "--against {tmp}/loop", "symbolic links"),
    ("compare", "MODEL={tmp}/loop", "symbolic links"),
    ("export", "MODEL={tmp}/loop", "symbolic links"),
    ("export", "MODEL={tmp}/a{nul}b", "NUL"),
    ("chat", "MODEL={tmp}/loop.gguf", "loop.gguf"),
    ("chat", "MODEL={tmp}/cut.gguf", "cut.gguf"),
    ("chat", "MODEL={tmp}/empty", "config.json"),
    ("benchmark", "MODEL={tmp}/cut.gguf", "cut.gguf"),
    ("benchmark", "MODEL={tmp}/{long}.gguf", "too long"),
    ("benchmark", "MODEL={tmp}/loop", "symbolic links"),
    ("plan", "MODEL={tmp}/{half}", "UTF-8"),
    # --- texts
    ("prune", "--calibration {tmp}/loop", "symbolic links"),
    ("prune", "--calibration {tmp}/{long}", "too long"),
    ("prune", "--calibration {tmp}/{long}+calibration", "too long"),
    ("prune", "--calibration {tmp}/loop+calibration", "symbolic links"),
    ("prune", "--calibration {tmp}/a{nul}b", "NUL"),
    ("prune", "--calibration {tmp}/huge.txt", "at most 50 MB"),
    ("prune", "--calibration {tmp}/empty", "a folder"),
    ("prune", "--calibration {tmp}/latin.txt", "UTF-8"),
    ("prune", "--calibration /dev/zero", "no ordinary file"),
    ("prune", "--calibration calibration:nan", "share above 0"),
    ("prune", "--calibration +", "text"),
    ("prune", "--evaluate {tmp}/huge.txt", "at most 50 MB"),
    ("prune", "--evaluate {tmp}/{half}", "UTF-8"),
    ("inspect", "--calibration {tmp}/huge.txt", "at most 50 MB"),
    ("evaluate", "--text {tmp}/huge.txt", "at most 50 MB"),
    ("evaluate", "--text {tmp}/notes[/red].txt", "tokens of evaluation text"),
    ("evaluate", "--text {tmp}/no[/red].txt", "no such file"),
    ("evaluate", "--text {tmp}/{long}", "too long"),
    ("evaluate", "--tasks ,", "which read no text"),
    ("compare", "--calibration {tmp}/huge.txt", "at most 50 MB"),
    ("compare", "--evaluate {tmp}/loop", "symbolic links"),
    ("plan", "--calibration {tmp}/huge.txt", "at most 50 MB"),
    # --- places to write to
    ("prune", "--out /", "--out"),
    ("prune", "--out {tmp}/loop", "symbolic links"),
    ("prune", "--out ~no-such-user/out", "a home that is there"),
    ("compare", "--out ~no-such-user", "a home that is there"),
    ("prune", "--out {tmp}/{name}", "200 bytes"),
    ("prune", "--out {tmp}/{long}", "too long"),
    ("prune", "--out {tmp}/{half}", "UTF-8"),
    ("prune", "--out {tmp}/notes[/red].txt", "notes[/red].txt"),
    ("demo", "--out /", "--out"),
    ("demo", "--out {tmp}/loop", "symbolic links"),
    ("demo", "--out /dev/null", "to be a folder"),
    ("demo", "--out {tmp}/{name}", "200 bytes"),
    ("demo", "--out {tmp}/{half}", "UTF-8"),
    ("compare", "--out /", "--out"),
    ("compare", "--out {tmp}/loop", "symbolic links"),
    ("compare", "--out {tmp}/notes[/red].txt", "notes[/red].txt"),
    ("export", "--gguf /", "--gguf"),
    ("export", "--gguf {tmp}/loop", "symbolic links"),
    ("export", "--gguf {tmp}/{name}", "200 bytes"),
    ("export", "--gguf {tmp}/empty", "the folder"),
    ("export", "--type q2", "q2"),
    ("export", "--vllm", "got --gguf, --vllm"),
    ("export", "--out {tmp}/out", "got --gguf, --out"),
    ("export", "--vllm --out {tmp}/out", "got --gguf, --vllm, --out"),
    ("export for vLLM", "", "takes it as it is"),
    ("export for vLLM", "--type f16", "got --type, --vllm, --out"),
    ("export for vLLM", "--out {model}", "apart from the model"),
    ("export for vLLM", "--out {tmp}/letter.json", "the file"),
    ("export for vLLM", "--out {tmp}/theirs", "with files in it"),
    ("export for vLLM", "--out {tmp}/theirs --overwrite", "a checkpoint to overwrite"),
    ("export for vLLM", "--out {tmp}/mixed --overwrite", "notes.txt"),
    ("export for vLLM", "--out /", "--out"),
    ("export for vLLM", "--out {tmp}/loop", "symbolic links"),
    ("plan", "--out {tmp}/empty", "the folder"),
    ("plan", "--out /", "--out"),
    ("plan", "--out {tmp}/no/where.json", "make the folder first"),
    ("evaluate", "--text kinds --figure {tmp}/a.foo", ".png"),
    ("evaluate", "--text kinds --figure {tmp}/a", ".png"),
    ("evaluate", "--text kinds --figure {tmp}/{half}.png", "UTF-8"),
    ("benchmark", "--figure {tmp}/a.foo", ".png"),
    ("benchmark", "--figure {tmp}/empty", "the folder"),
    ("benchmark", "--json {tmp}/empty", "the folder"),
    ("benchmark", "--json {tmp}/loop", "symbolic links"),
    ("report", "--out {tmp}/a.foo", ".html"),
    ("report", "--out {tmp}/{name}.html", "200 bytes"),
    ("report", "--out {tmp}/no/where.html", "make the folder first"),
    ("report", "--kinds {nul}", "NUL"),
    ("report", "--against {tmp}/loop", "symbolic links"),
    ("report", "--against {tmp}/cut.gguf", "cut.gguf"),
    ("report", "MODEL={tmp}/empty", "config.json"),
    ("evaluate", "MODEL={tmp}/absent.gguf", "which is not there"),
]


@pytest.fixture(scope="module")
def gguf(parent, tmp_path_factory):
    return export_gguf(parent, tmp_path_factory.mktemp("gguf") / "m.gguf", "f16")


@pytest.fixture
def place(tmp_path, parent, gguf, monkeypatch):
    """What the words in braces stand for, in a folder where things are not as they should be."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes[").mkdir()
    (tmp_path / "notes[" / "red].txt").write_text("A few words.")
    (tmp_path / "latin.txt").write_bytes("Café. ".encode("latin-1") * 1000)
    (tmp_path / "letter.json").write_text('"Dear ..."')
    (tmp_path / "comp_plan.json").write_text(json.dumps(dict.fromkeys(Plan.__dataclass_fields__)))
    (tmp_path / "theirs.png").write_bytes(b"\x89PNG, but not ours")
    os.mkfifo(tmp_path / "pipe")
    for folder, name in (("taken.partial", "notes.txt"), ("theirs", "table.md"), ("theirs", "pruned.png")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text("theirs")
    shutil.copytree(parent, tmp_path / "mixed")
    (tmp_path / "mixed" / "notes.txt").write_text("theirs")
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:-100])
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(1 << 30)  # of which the disk holds nothing
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    words = {"nul": "\0", "half": "\udcff", "long": "n" * 300, "name": "n" * 250, "million": "n" * 1_000_001}
    words |= {"digits": "9" * 400, "escape": "\x1b[31m", "many": ",".join(map(str, range(1, 200)))}
    return words | {"tmp": tmp_path, "model": parent, "gguf": gguf}


def tree(*folders):
    """Every name, and when each file was last written."""
    found = (path for folder in folders for path in folder.rglob("*"))
    return {path: None if path.is_dir() else path.lstat().st_mtime_ns for path in found}


@pytest.mark.parametrize(("command", "more", "words"), ROWS, ids=lambda word: word.replace("\0", ""))
def test_a_hostile_call_is_refused_in_one_line_and_changes_nothing(place, parent, tmp_path, command, more, words):
    if package := NEEDS.get(command):
        pytest.importorskip(package)
    call, more = shlex.split(CALLS[command]), shlex.split(more)
    if more and more[0].startswith("MODEL="):
        call[1] = more.pop(0).removeprefix("MODEL=")
    before = tree(tmp_path, parent)
    done = run(*(word.format(**place) for word in (*call, *more)))
    refused(done, [words])
    assert tree(tmp_path, parent) == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--preset best --sequences 1", "at least 2 calibration sequences"),
        ("--budget latency=0.999 --kv-groups 99", "KV groups"),
        ("--budget latency=0.999 --layers 50", "0 to 2 layers to drop"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_writes_text(place, tmp_path, more, words):
    before = tree(tmp_path)
    done = run("prune", place["model"], "--out", tmp_path / "out", "--length", 32, "--multiple", 4, *more.split())
    assert done.exit_code == 2 and words in done.stderr, (done.output, done.exception)
    assert tree(tmp_path) == before  # the cache, too, is in there


@pytest.mark.parametrize("option", ["MODEL", "--calibration", "--evaluate"])
def test_what_this_user_may_not_read_is_not_called_missing(place, tmp_path, monkeypatch, option):
    file = str(tmp_path / "latin.txt")
    monkeypatch.setattr("os.access", lambda path, *wanted, **how: os.fspath(path) != file)
    model, more = (file, []) if option == "MODEL" else (place["model"], [option, file])
    refused(
        run("prune", model, "--out", tmp_path / "out", *more), [option, "may read", "latin.txt", "Permission denied"]
    )


def test_there_is_a_row_for_each_command():
    from comp_lib.cli.app import app

    commands = {each.callback.__name__ for each in app.registered_commands} - {"doctor"}  # it is told nothing
    assert {row[0] for row in ROWS} == CALLS.keys() and {name.split()[0] for name in CALLS} == commands
