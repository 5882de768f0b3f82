"""Memory and time of pruning by a fifth, against the size of the model: files to files, one layer at a time.

    python benchmarks/scale.py SHAPE [--work build] [--sequences 8] [--length 128] [--out benchmarks/scale.json]
    python benchmarks/scale.py 135m|1b --how memory|llm-pruner

SHAPE is 7b (LLaMA-2-7B's), 3b, 1b, or 135m (the real model); --layers gives the first three another depth. The
checkpoint has random bfloat16 weights, written layer by layer into --work, if there is room, and removed afterwards.
The measured process does nothing but prune, in float32 (or --dtype), and saves bfloat16; its peak is the most resident
memory that it ever had. Each call prints its row and keeps it in --out. `computed` is LLM-Pruner's least need on the
shape: weights and gradients in float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Size:
    """A Llama with one query head to a KV head."""

    layers: int
    hidden: int
    neurons: int
    heads: int
    vocabulary: int = 32000

    @property
    def parameters(self) -> int:
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.neurons + 2 * self.hidden
        return self.layers * layer + 2 * self.vocabulary * self.hidden + self.hidden


SIZES = {"7b": Size(32, 4096, 11008, 32), "3b": Size(26, 3200, 8640, 32), "1b": Size(16, 2048, 5632, 32)}


class Nothing:
    """The tokenizer of random models, which have none to save."""

    def save_pretrained(self, folder):
        pass


def make(folder: Path, size: Size) -> None:
    """A checkpoint of that size, layer by layer. Raises SystemExit when there is no room for it and its result."""
    import torch
    from transformers import LlamaConfig

    from comp_lib.system.tensor_files import Layout

    needed, free = 2 * 2 * size.parameters, shutil.disk_usage(folder.parent).free
    if free < needed * 1.1:
        sys.exit(f"expected {needed / 9e8:.0f} GB free in {folder.parent}, got {free / 1e9:.0f} GB: see --work")
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 0.02):
        def pieces():
            for start in range(0, shape[0], 512):
                yield torch.randn(min(512, shape[0] - start), *shape[1:], generator=generator) * scale

        return shape, pieces()

    def one(width: int):
        return (width,), (torch.ones(width),)

    d, n = size.hidden, size.neurons
    tensors = {"model.embed_tokens.weight": random(size.vocabulary, d, scale=1.0)}
    for layer in range(size.layers):
        name = f"model.layers.{layer}."
        tensors |= {f"{name}self_attn.{part}_proj.weight": random(d, d) for part in "qkvo"}
        tensors |= {f"{name}mlp.{part}_proj.weight": random(n, d) for part in ("gate", "up")}
        tensors |= {f"{name}mlp.down_proj.weight": random(d, n)}
        tensors |= {f"{name}{part}_layernorm.weight": one(d) for part in ("input", "post_attention")}
    tensors |= {"model.norm.weight": one(d), "lm_head.weight": random(size.vocabulary, d)}
    layout = Layout({name: shape for name, (shape, _) in tensors.items()}, torch.bfloat16)
    layout.create(folder)
    layout.write(folder, {name: pieces for name, (_, pieces) in tensors.items()})
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


def parent(folder: str | None, size: tuple[int, int]) -> tuple:
    """Folder, config, tokenizer and calibration tokens (S, L) of a checkpoint that `make` wrote; None: the real model.

    Text for the real model, any tokens for random weights, which have no tokenizer.
    """
    import torch
    from transformers import AutoConfig

    from comp_lib.calibration.tokens import calibration_tokens
    from comp_lib.models.load import EMBEDDED, open_model

    if folder is None:
        folder, config, tokenizer = open_model(EMBEDDED)
        ids = calibration_tokens("calibration", tokenizer, sequences=size[0], length=size[1])
    else:
        config, tokenizer = AutoConfig.from_pretrained(folder), Nothing()
        ids = torch.randint(config.vocab_size, size, generator=torch.Generator().manual_seed(0))
    return folder, config, tokenizer, ids


def measured(job: dict) -> dict:
    """In a process of its own: one run, its time and its memory."""
    import psutil
    import torch
    from transformers import AutoModelForCausalLM

    from comp_lib.models.load import EMBEDDED, load_model
    from comp_lib.prune import prune
    from comp_lib.scale.memory import bytes_of
    from comp_lib.scale.model_on_disk import Streamed
    from comp_lib.scale.prune_to import Means, Saving, prune_to
    from comp_lib.settings import Settings
    from comp_lib.system.machine import peak_bytes

    how, real = job["how"], job["shape"] == "135m"
    llm_pruner = how == "llm-pruner"
    settings = Settings(ratio=0.2, **({"method": how, "recovery": "none"} if llm_pruner else {"aim": job["aim"]}))
    size = (job["sequences"], job["length"])
    seconds = []
    folder, config, tokenizer, ids = parent(None if real else job["folder"], size)
    imports = psutil.Process().memory_info().rss
    started = time.perf_counter()
    if how == "files":
        model = Streamed(folder, config, getattr(torch, job["dtype"]))
        dtype = torch.float32 if real else torch.bfloat16

        def progress(what, done, total, report=None):
            if report is not None:
                seconds.append(report.seconds)
                line = f"layer {report.layer}: {report.seconds:.1f} s, error {report.error:.4f}"
                print(f"{line}, peak {peak_bytes() / 2**20:.0f} MB", file=sys.stderr, flush=True)

        means = Means(memory=None if job["memory"] is None else bytes_of(job["memory"]), progress=progress)
        done = prune_to(job["out"], model, tokenizer, ids, settings, saving=Saving(dtype=dtype), means=means)
        parameters, removed = model.shape.total, done.plan.removed
        limits = {"phases": done.report.phases, "least": done.report.least}
    else:
        model = load_model(EMBEDDED)[0] if real else AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        parameters = model.num_parameters()
        done = prune(model, ids, settings, inplace=True)
        seconds += [layer.seconds for layer in done.report.layers]
        removed, limits = done.plan.removed, {}
    whole = time.perf_counter() - started
    return {
        "parameters": parameters,
        "layers": len(model.model.layers) if how == "files" else config.num_hidden_layers,
        "tokens": ids.numel(),
        "removed": removed,
        "seconds": round(whole, 1),
        "seconds_per_layer": round(sum(seconds) / max(len(seconds), 1), 2),
        "peak_megabytes": round(peak_bytes() / 2**20, 1),
        "imports_megabytes": round(imports / 2**20, 1),
        "threads": torch.get_num_threads(),
    } | limits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=[*SIZES, "135m"])
    parser.add_argument("--layers", type=int, help="fewer or more layers than the shape has")
    parser.add_argument("--how", choices=["files", "memory", "llm-pruner"], default="files")
    parser.add_argument("--work", type=Path, default=Path("build"), help="where checkpoints are made and removed")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the layers and states")
    parser.add_argument("--aim", choices=["self", "dense"], default="self", help="of the least squares, as in prune")
    parser.add_argument("--memory", help="as in prune, such as 2GB; only with --how files")
    parser.add_argument("--out", type=Path, help="default: benchmarks/scale.json, or bfloat16.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(json.loads(arguments.child))))
        return
    if arguments.how != "files" and (arguments.memory, arguments.aim) != (None, "self"):
        sys.exit(f"expected --how files with --memory or --aim, got --how {arguments.how}: leave one of them out")
    if arguments.how != "files" and arguments.shape not in ("135m", "1b"):
        sys.exit(f"expected 135m or 1b, which fit into memory as a whole, got {arguments.shape} --how {arguments.how}")
    command = (
        f"python benchmarks/scale.py {arguments.shape} --how {arguments.how} --sequences {arguments.sequences} "
        f"--length {arguments.length}" + (f" --layers {arguments.layers}" if arguments.layers else "")
    )
    for option, usual in (("dtype", "float32"), ("aim", "self"), ("memory", None)):
        value = getattr(arguments, option)
        command += f" --{option} {value}" if value != usual else ""
    out = arguments.out or HERE / ("scale.json" if arguments.dtype == "float32" else f"{arguments.dtype}.json")
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="scale-", dir=arguments.work.resolve()))
    job = {
        "shape": arguments.shape,
        "how": arguments.how,
        "sequences": arguments.sequences,
        "length": arguments.length,
        "dtype": arguments.dtype,
        "aim": arguments.aim,
        "memory": arguments.memory,
        "folder": str(work / "dense"),
        "out": str(work / "small"),
    }
    try:
        if arguments.shape != "135m":
            started = time.perf_counter()
            size = SIZES[arguments.shape]
            make(work / "dense", replace(size, layers=arguments.layers or size.layers))
            print(f"made {arguments.shape} in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        child = [sys.executable, __file__, arguments.shape, "--child", json.dumps(job)]
        row = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
    finally:
        shutil.rmtree(work)
    computed = 2 * row["parameters"] * 4 / 2**20
    row = {
        "shape": arguments.shape,
        "how": arguments.how,
        "aim": arguments.aim,
        "memory": arguments.memory,
        "command": command,
        **row,
        "llm_pruner_megabytes_computed": round(computed, 1),
    }
    rows = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    usual = {"aim": "self", "memory": None}  # of rows that were kept before there was a choice
    rows = replaced([usual | other for other in rows], row, ("shape", "how", "aim", "memory", "layers", "tokens"))
    out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(rows)))


def replaced(rows: list[dict], row: dict, same: tuple[str, ...]) -> list[dict]:
    """All rows, this one in the place of an older one that is the `same` by these names."""
    return [other for other in rows if any(other[key] != row[key] for key in same)] + [row]


def table(rows: list[dict]) -> list[str]:
    """All rows, smallest model first."""
    lines = [
        f"{'shape':8}{'how':12}{'parameters':>15}{'layers':>8}{'tokens':>8}{'peak MB':>9}{'above imports':>15}"
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
