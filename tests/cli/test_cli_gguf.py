"""`comp-lib export` and `comp-lib chat` on a tiny model: what they write, what they say, and what they refuse."""

from __future__ import annotations

import subprocess
import sys

import gguf
import pytest
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from comp_lib.cli.app import app
from comp_lib.errors import InputError
from comp_lib.on_device import llama_cpp

ONE = ["--threads", "1"]  # llama.cpp's own threads wait for each other in loops, and other tests want the cores


def run(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def test_export_writes_a_file_and_says_how_large(parent, tmp_path):
    done = run("export", parent, "--gguf", tmp_path / "m.gguf", "--type", "f32")
    assert done.exit_code == 0, done.output
    size = (tmp_path / "m.gguf").stat().st_size
    assert f"{size / 1e6:,.1f} MB" in done.output
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["general.name"].contents() == "m"


def test_export_refuses_in_one_line(parent, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF, precious")
    done = run("export", parent, "--gguf", tmp_path / "m.gguf")
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1 and "--overwrite" in done.stderr
    assert (tmp_path / "m.gguf").read_bytes() == b"GGUF, precious"
    assert run("export", parent, "--gguf", tmp_path / "m.gguf", "--overwrite").exit_code == 0


def test_export_for_vllm_writes_a_folder_and_says_what_zeros_cost(parent, tmp_path):
    sizes = ["--ratio", "0.3", "--sequences", "4", "--length", "32", "--multiple", "4", "--evaluate", "none"]
    pruned = run("prune", parent, "--out", tmp_path / "small", "--preset", "paper", *sizes)
    assert pruned.exit_code == 0, pruned.output
    done = run("export", tmp_path / "small", "--vllm", "--out", tmp_path / "filled")
    assert done.exit_code == 0 and "million parameters, with zeros" in done.output, done.output
    assert LlamaForCausalLM.from_pretrained(tmp_path / "filled").num_parameters() > 0
    again = run("export", tmp_path / "small", "--vllm", "--out", tmp_path / "filled")
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert run("export", tmp_path / "small", "--vllm", "--out", tmp_path / "filled", "--overwrite").exit_code == 0


def test_chat_answers_one_question_from_a_folder_and_from_a_file(parent, tmp_path):
    asked = ["--prompt", "What a day!", "--tokens", "8", "--context", "128", *ONE]
    folder = run("chat", parent, *asked, "--type", "f16")
    assert folder.exit_code == 0, folder.output
    run("export", parent, "--gguf", tmp_path / "m.gguf", "--type", "f16")
    file = run("chat", tmp_path / "m.gguf", *asked)
    assert file.exit_code == 0 and file.stdout == folder.stdout and file.stdout.strip()


@pytest.mark.parametrize("end", ["\n", "/bye\n", ""])
def test_chat_goes_on_until_it_is_told_to_end(parent, end, monkeypatch):
    seen = []

    def answer(server, messages, tokens, say):
        seen.append([dict(message) for message in messages])
        say("yes")
        return "yes"

    monkeypatch.setattr(llama_cpp, "answer", answer)
    done = run("chat", parent, *ONE, input=f"Are you there?\nStill?\n{end}")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("yes") == 2
    assert [message["content"] for message in seen[1]] == ["Are you there?", "yes", "Still?"]


def test_chat_refuses_a_conversation_that_is_too_long(parent):
    done = run("chat", parent, "--prompt", "word " * 200, "--context", "64", *ONE)
    assert done.exit_code == 2 and "context" in done.stderr


def test_a_server_that_nobody_asked_anything_ends_too(parent, tmp_path):
    run("export", parent, "--gguf", tmp_path / "m.gguf")
    code = "import sys; from comp_lib.on_device.llama_cpp import start; "
    code += "[start(sys.argv[1], 64, threads=1) for _ in range(5)]"
    subprocess.run([sys.executable, "-c", code, tmp_path / "m.gguf"], check=True, timeout=300)


@pytest.mark.parametrize("name", ["nothing.gguf", "broken.gguf"])
def test_chat_refuses_what_is_no_model(tmp_path, name):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and then nothing")
    done = run("chat", tmp_path / name, "--prompt", "Hello")
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1 and name in done.stderr


def test_without_xllamacpp_chat_says_what_to_install(parent, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(InputError, match=r"pip install 'comp-lib\[gguf\]'"):
        llama_cpp.start(parent / "any.gguf")
    done = run("chat", parent, "--prompt", "Hello")
    assert done.exit_code == 2 and "comp-lib[gguf]" in done.stderr
