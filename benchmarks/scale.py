"""Memory and time of pruning by a fifth from disk to disk, against the size of the model

    python benchmarks/scale.py SHAPE [--work build] [--sequences 8] [--length 128] [--out FILE]
    python benchmarks/scale.py 135m|1b --how memory|llm-pruner

SHAPE is 7b (LLaMA-2-7B's), 3b, 1b, or 135m (the real model); --layers gives the first three another depth.
The checkpoint has random bfloat16 weights, written layer by layer into --work, if there is room, and removed
afterwards. The measured process does nothing but prune, in float32 (or --dtype), in which it saves; its peak
is the most resident memory that it ever had. Each call prints its row and keeps it in --out, with the least
time that limit.py counts for it. `computed` is LLM-Pruner's least need on the shape: weights and gradients in
float32. (Older rows saved bfloat16 and know the seconds of each phase, and of `--memory`, which was a limit
of the tokens in flight.)
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from common import HERE, read_json, write_json
from limit import SIZES, Machine, Run, Size
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.load import load_model, open_model
from comp_lib.checkpoints.tensors import StoredTensors, TensorFiles
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.own_widths.meta_model import make_meta_model
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.types import Model
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.utils.machine import peak_bytes

REAL = "135m"  # the shape of the real model
SHAPES_IN_MEMORY = (REAL, "1b")
KEY = ("shape", "how", "aim", "layers", "tokens")  # fields by which a row takes the place of an older one


class NoTokenizer:
    """The tokenizer of random models, which have none to save."""

    def save_pretrained(self, folder):
        pass


def random(*shape: int, scale: float = 0.02) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16) * scale


def make(folder: Path, size: Size) -> None:
    """A checkpoint of that size, a shard a layer. Raises SystemExit if the disk has no room for it."""
    needed = 2 * 2 * size.parameters
    free = shutil.disk_usage(folder.parent).free
    if free < needed * 1.1:
        sys.exit(
            f"expected {needed / 9e8:.0f} GB free in {folder.parent}, got {free / 1e9:.0f} GB: see --work"
        )
    folder.mkdir()
    torch.manual_seed(0)
    weight_map: dict[str, str] = {}

    def write(file: str, tensors: dict[str, Tensor]) -> None:
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))

    d = size.hidden
    n = size.neurons
    norm = torch.ones(d, dtype=torch.bfloat16)
    for layer in range(size.layers):
        name = f"model.layers.{layer}."
        tensors = {f"{name}self_attn.{part}_proj.weight": random(d, d) for part in "qkvo"}
        tensors |= {f"{name}mlp.{part}_proj.weight": random(n, d) for part in ("gate", "up")}
        tensors |= {f"{name}mlp.down_proj.weight": random(d, n)}
        tensors |= {f"{name}{part}_layernorm.weight": norm.clone() for part in ("input", "post_attention")}
        write(f"model-{layer:05}.safetensors", tensors)
    write("model-embedding.safetensors", {"model.embed_tokens.weight": random(size.vocabulary, d, scale=1.0)})
    write("model-head.safetensors", {"model.norm.weight": norm, "lm_head.weight": random(size.vocabulary, d)})
    index = {"metadata": {"total_size": 2 * size.parameters}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=d,
        intermediate_size=n,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        architectures=["LlamaForCausalLM"],
        max_position_embeddings=4096,
        dtype="bfloat16",
    ).save_pretrained(folder)


def parent(folder: str | None, sequences: int, length: int) -> tuple:
    """Files, config, tokenizer and calibration tokens (S, L) of what `make` wrote; None: of the real model.

    The real model gets text. Random weights, which have no tokenizer, get any tokens.
    """
    if folder is None:
        meta_model, files, tokenizer = open_model(INCLUDED_MODEL)
        ids = calibration_tokens("calibration", tokenizer, sequences=sequences, length=length)
        return files, meta_model.config, tokenizer, ids
    config = AutoConfig.from_pretrained(folder)
    ids = torch.randint(config.vocab_size, (sequences, length), generator=torch.Generator().manual_seed(0))
    return TensorFiles(folder), config, NoTokenizer(), ids


def settings_for(job: dict[str, Any]) -> Settings:
    if job["how"] == "llm-pruner":
        return Settings(ratio=0.2, multiple=64, method="llm-pruner", recovery="none")
    return Settings(ratio=0.2, multiple=64, widths="uniform", aim=job["aim"])


def full_model(job: dict[str, Any], files: StoredTensors) -> Model:
    """The parent in memory, in float32."""
    if job["shape"] == REAL:
        return load_model(INCLUDED_MODEL)[0]
    return AutoModelForCausalLM.from_pretrained(files.path, dtype="float32")


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: one run, its time and its memory."""
    from comp_lib.checkpoints.from_disk.from_disk import prune_to
    from comp_lib.checkpoints.from_disk.model_on_disk import ModelOnDisk

    settings = settings_for(job)
    dtype = getattr(torch, job["dtype"])
    folder = None if job["shape"] == REAL else job["folder"]
    files, config, tokenizer, ids = parent(folder, job["sequences"], job["length"])
    imports = psutil.Process().memory_info().rss
    started = time.perf_counter()
    if job["how"] == "files":
        layer_seconds = []

        def progress(phase, finished, total, report=None):
            if report is not None:
                layer_seconds.append(report.seconds)

        model = ModelOnDisk(make_meta_model(config, dtype), files)
        plan = prune_to(job["out"], model, tokenizer, ids, settings, progress=progress).plan
        shape = model.shape
    else:
        model = full_model(job, files)
        shape = Shape.of(model)
        pruned = prune(model, ids, settings, inplace=True)
        layer_seconds = [layer.seconds for layer in pruned.report.layers]
        plan = pruned.plan
    seconds = time.perf_counter() - started
    row = {
        "parameters": shape.total_parameters,
        "layers": shape.layer_count,
        "tokens": ids.numel(),
        "removed": plan.removed,
        "seconds": round(seconds, 1),
        "seconds_per_layer": round(sum(layer_seconds) / max(len(layer_seconds), 1), 2),
        "peak_megabytes": round(peak_bytes() / 2**20, 1),
        "imports_megabytes": round(imports / 2**20, 1),
        "threads": torch.get_num_threads(),
    }
    if job["how"] == "files" and job["aim"] == "self":
        stored = sum(file.stat().st_size for file in files.path.glob("*.safetensors"))
        run = Run(shape, plan, *ids.shape, stored=stored, saved=dtype.itemsize, state=dtype.itemsize)
        machine = Machine.measured(shape.hidden_size, max(shape.neurons), Path(job["out"]).parent, dtype)
        row["least"] = round(machine.seconds(run.work()), 2)
    return row


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=[*SIZES, REAL])
    parser.add_argument("--layers", type=int, help="fewer or more layers than the shape has")
    parser.add_argument("--how", choices=["files", "memory", "llm-pruner"], default="files")
    parser.add_argument(
        "--work", type=Path, default=Path("build"), help="where checkpoints are made and removed"
    )
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the layers and states"
    )
    parser.add_argument(
        "--aim", choices=["self", "dense"], default="self", help="of the least squares, as in prune"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/scale.json, or bfloat16.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def command_of(arguments: argparse.Namespace) -> str:
    """What to type for this run, with the options that have another value than by default."""
    command = ["python benchmarks/scale.py", arguments.shape, "--how", arguments.how]
    command += ["--sequences", arguments.sequences, "--length", arguments.length]
    if arguments.layers is not None:
        command += ["--layers", arguments.layers]
    if arguments.dtype != "float32":
        command += ["--dtype", arguments.dtype]
    if arguments.aim != "self":
        command += ["--aim", arguments.aim]
    return " ".join(map(str, command))


def run_in_child(arguments: argparse.Namespace) -> dict[str, Any]:
    """Makes the checkpoint, prunes it in another process, and removes both; returns what was measured."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="scale-", dir=arguments.work.resolve()))
    job = {name: getattr(arguments, name) for name in ("shape", "how", "sequences", "length", "dtype", "aim")}
    job |= {"folder": str(work / "dense"), "out": str(work / "small")}
    try:
        if arguments.shape != REAL:
            size = SIZES[arguments.shape]
            make(work / "dense", replace(size, layers=arguments.layers or size.layers))
        child = [sys.executable, __file__, arguments.shape, "--child", json.dumps(job)]
        return json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
    finally:
        shutil.rmtree(work)


def main() -> None:
    arguments = parse()
    if arguments.child:
        print(json.dumps(measured(json.loads(arguments.child))))
        return
    if arguments.how != "files" and arguments.shape not in SHAPES_IN_MEMORY:
        sys.exit(
            f"expected {' or '.join(SHAPES_IN_MEMORY)}, which fit into memory as a whole, "
            f"got {arguments.shape} --how {arguments.how}"
        )
    file = "scale.json" if arguments.dtype == "float32" else f"{arguments.dtype}.json"
    out = arguments.out or HERE / file
    measurement = run_in_child(arguments)
    row = {
        "shape": arguments.shape,
        "how": arguments.how,
        "aim": arguments.aim,
        "command": command_of(arguments),
        **measurement,
        "llm_pruner_megabytes_computed": round(2 * measurement["parameters"] * 4 / 2**20, 1),
    }
    older_rows = [old for old in read_json(out) if any(old[name] != row[name] for name in KEY)]
    rows = [*older_rows, row]
    write_json(out, rows)
    print("\n".join(table(rows)))


def table(rows: list[dict]) -> list[str]:
    """All rows, smallest model first."""
    lines = [
        f"{'shape':8}{'how':12}{'parameters':>15}{'layers':>8}{'tokens':>8}{'peak MB':>9}"
        f"{'above imports':>15}"
        f"{'s a layer':>11}{'s':>8}{'LLM-Pruner, computed MB':>25}"
    ]
    for row in sorted(rows, key=lambda row: (row["parameters"], row["how"], row["tokens"])):
        above = row["peak_megabytes"] - row["imports_megabytes"]
        lines.append(
            f"{row['shape']:8}{row['how']:12}{row['parameters']:>15,}{row['layers']:>8}{row['tokens']:>8,}"
            f"{row['peak_megabytes']:>9,.0f}{above:>15,.0f}{row['seconds_per_layer']:>11.1f}"
            f"{row['seconds']:>8.0f}{row['llm_pruner_megabytes_computed']:>25,.0f}"
        )
    return lines


if __name__ == "__main__":
    main()
