"""Bytes per token against tensors, gains against arithmetic, turns with workers of our own, and the whole command."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner
from variants import build

from comp_lib.cli.app import app
from comp_lib.errors import InputError
from comp_lib.on_device import benchmark as module
from comp_lib.on_device.benchmark import (
    Measured,
    RuntimeJob,
    Workload,
    benchmark,
    bytes_per_token,
    gain,
    gguf_bytes_per_token,
    prepare,
)
from comp_lib.on_device.gguf_export import export_gguf

pytest.importorskip("xllamacpp")


def counted(model, itemsize):
    """By name: all weights of the decoder, the last norm, and one table of the vocabulary, the head."""
    decoder = sum(p.numel() for layer in model.model.layers for p in layer.parameters())
    return itemsize * (decoder + model.model.norm.weight.numel() + model.lm_head.weight.numel())


@pytest.mark.parametrize("variant", ["gqa", "tied", "attention-bias"])
def test_bytes_per_token_count_the_head_and_not_the_look_up(variant):
    model = build(variant)
    assert bytes_per_token(model) == counted(model, 4)
    assert bytes_per_token(model.bfloat16()) == counted(model, 2)


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_per_token_of_a_file(tmp_path, tokenizer, tied):
    model = build("gqa", tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    matrices = sum(p.numel() for layer in model.model.layers for p in layer.parameters() if p.ndim == 2)
    vectors = 32 * (2 * 3 + 1)
    for kind, bits in (("f16", 16), ("f32", 32)):
        file = export_gguf(tmp_path / "model", tmp_path / f"{kind}.gguf", kind)
        assert gguf_bytes_per_token(file) == (matrices + 512 * 32) * bits // 8 + 4 * vectors


def measured(name, size, decode, prefill=(1.0,)):
    return Measured(name, "llama.cpp", None, size, 0, tuple(1 / p for p in prefill), prefill, decode)


def test_the_gain_and_its_limit():
    dense, small = measured("dense", 150, (10.0, 20.0, 5.0)), measured("small", 100, (14.0, 28.0, 8.0))
    found = gain(dense, small)
    assert found.limit == 1.5 and found.speedup == pytest.approx((1.4, 1.4, 1.6))
    assert found.share == pytest.approx(0.8)  # 0.4 of 0.5
    assert gain(dense, dense).speedup == (1, 1, 1) and gain(dense, dense).share != gain(dense, dense).share  # NaN


# --- turns ------------------------------------------------------------------------------------------------------------

# Says for each round how often any worker was asked before: in one file, which all of them share.
WORKER = """
import json, sys
job = json.loads(sys.stdin.readline())
print(json.dumps({"bytes_per_token": 100}), flush=True)
for line in sys.stdin:
    with open(job["model"], "a+") as file:
        file.seek(0)
        asked = len(file.read())
        file.write("x")
    print(json.dumps({"first": 1.0, "rest": asked + 1.0, "memory": asked}), flush=True)
"""


@pytest.fixture
def imported(python, monkeypatch):
    """The workers have their imports behind them."""
    monkeypatch.setattr(module, "MODULE", (*python[1:], *module.MODULE))


def job(model, runtime="transformers", prompt=8, new=4):
    return RuntimeJob(str(model), runtime, Workload(prompt, new))


def test_workers_take_turns_and_the_first_round_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MODULE", ("-c", WORKER))
    one, other = benchmark([("one", job(tmp_path / "log")), ("other", job(tmp_path / "log"))], rounds=2)
    assert (tmp_path / "log").read_text() == "x" * 6
    assert one.decode == (4 / 3, 4 / 5) and other.decode == (4 / 4, 4 / 6)
    assert one.prefill == (8.0, 8.0) and one.first == (1.0, 1.0)
    assert (one.memory, other.memory) == (4, 5) and one.bytes_per_token == 100


def test_a_worker_that_dies_is_quoted(monkeypatch):
    monkeypatch.setattr(module, "MODULE", ("-c", "raise SystemExit('out of luck')"))
    with pytest.raises(RuntimeError, match=r"some in transformers: out of luck \(exit code 1\)"):
        benchmark([("some", job("some"))], rounds=1)


@pytest.mark.usefixtures("imported")
def test_what_a_runtime_refuses_is_refused(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="expected a complete GGUF file"):
        benchmark([("bad", job(tmp_path / "bad.gguf", "llama.cpp"))], rounds=1)


@pytest.mark.parametrize("wrong", [{"runtime": "onnx"}, {"models": []}, {"work": Workload(threads=0)}, {"kind": "q2"}])
def test_what_cannot_be_prepared(tmp_path, parent, wrong):
    asked = {
        "models": [str(parent)],
        "runtime": "llama.cpp",
        "kind": "f16",
        "folder": tmp_path,
        "work": Workload(),
    } | wrong
    with pytest.raises(InputError, match="^expected"):
        prepare(**asked)


def test_no_rounds_are_refused(parent):
    with pytest.raises(InputError, match="got 0 rounds"):
        benchmark([("some", job(parent))], rounds=0)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


SHORT = ("--rounds", 1, "--prompt", 8, "--tokens", 3, "--threads", 1)


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("runtime", ["transformers", "llama.cpp"])
def test_the_command_on_both_runtimes(tmp_path, parent, tiny_llama, tokenizer, runtime):
    small = tmp_path / "small"
    tiny_llama(num_hidden_layers=1).save_pretrained(small)
    tokenizer.save_pretrained(small)
    files = ("--json", tmp_path / "all.json", "--figure", tmp_path / "picture.png")
    done = run("benchmark", parent, small, "--runtime", runtime, "--type", "f16", *SHORT, *files)
    assert done.exit_code == 0, done.output
    assert "of the gain reached" in done.output
    found = json.loads((tmp_path / "all.json").read_text("utf-8"))
    dense, pruned = (Measured.from_dict(fields) for fields in found["models"])
    assert dense.runtime == pruned.runtime == runtime and dense.bytes_per_token > pruned.bytes_per_token
    assert found["models"][1]["limit"] == gain(dense, pruned).limit > 1
    for each in (dense, pruned):
        assert min(each.first + each.prefill + each.decode) > 0 and each.memory > 0 and each.file_bytes > 0
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--runtime", "onnx"), "expected a runtime"),
        (("--json", "nowhere/all.json"), "make the folder first"),
        (("--prompt", 120, "--tokens", 20, "--rounds", 1), "expected at most 128 tokens"),
    ],
)
def test_the_command_refuses(parent, words, why):
    done = run("benchmark", parent, *words)
    assert done.exit_code == 2 and why in " ".join(done.output.split())
