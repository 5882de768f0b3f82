"""What healing and quantising add to a pruned model, and cost: COMP, LLM-Pruner, and both with the same training.

    python benchmarks/after.py [--model smollm2-135m] [--work build/after]

Each step is a command that people type, in a process of its own: its seconds, and the highest resident memory of it and
its children, next to that of the imports alone. The texts that the parent writes are in the cache by then: call it
twice, and delete the folders between. Prunes by the defaults of `prune`, to multiples of 256; heals by the defaults of
`heal`, on text that the parent wrote, by LoRA and by scales; exports COMP's healed folder, and the parent. Then every
model is judged on the evaluation text of each kind, with 95% intervals of the loss above the parent's: of a .gguf file
the weights that it holds. llama.cpp says what it makes of the files itself, on a few of these tokens, next to
transformers on the same. Rows go to after.json, which lesson 10 shows; a second call goes on. Gemma 3's rows there are
of an older run, on six windows of 512 tokens of each kind; training_seconds are those that `heal` prints.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from common import HERE, decoder_parameters, markdown, parser_of, read_json, write_json

from comp_lib.calibration.text import windows_of
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import UNKNOWN
from comp_lib.models.load import load_model
from comp_lib.on_device import llama_cpp

FILE = HERE / "after.json"
IMPORTS = "import peft, comp_lib.cli.app, comp_lib.prune, comp_lib.healing"
PRUNE = ("--ratio", "0.2", "--multiple", "256", "--evaluate", "none", "--overwrite")
HEAL = ("--parent", "MODEL", "--out")
STEPS = {  # what is made -> of what, by which command; MODEL is the parent
    "COMP": ("MODEL", ("prune", "MODEL", "--out", "COMP", *PRUNE)),
    "LLM-Pruner": ("MODEL", ("prune", "MODEL", "--out", "LLM-Pruner", *PRUNE, "--method", "llm-pruner")),
    "COMP, healed": ("COMP", ("heal", "COMP", *HEAL, "COMP, healed")),
    "LLM-Pruner, healed": ("LLM-Pruner", ("heal", "LLM-Pruner", *HEAL, "LLM-Pruner, healed")),
    "COMP, scales": ("COMP", ("heal", "COMP", *HEAL, "COMP, scales", "--tune", "scales")),
    "LLM-Pruner, scales": (
        "LLM-Pruner",
        ("heal", "LLM-Pruner", *HEAL, "LLM-Pruner, scales", "--tune", "scales"),
    ),
    "COMP, healed, q8_0": ("COMP, healed", ("export", "COMP, healed", "--gguf", "COMP, healed, q8_0")),
    "COMP, healed, q4_0": ("COMP, healed", ("export", "COMP, healed", "--gguf", "COMP, healed, q4_0")),
    "parent, q4_0": ("MODEL", ("export", "MODEL", "--gguf", "parent, q4_0")),
}
WINDOWS, LENGTH = 8, 384  # of each kind of text
ASKED = 128  # tokens of each kind that llama.cpp reads
SHOWN = ("COMP", "COMP, healed", "COMP, healed, q4_0", "parent, q4_0")  # in docs/heal.md


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/after"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ["COMP_LIB_CACHE"] = str((arguments.work / "cache").resolve())
    known = read_json(FILE)
    rows = {row["name"]: row for row in known if row["model"] == arguments.model}
    others = [row for row in known if row["model"] != arguments.model]

    def keep(row: dict) -> None:
        rows[row["name"]] = {"model": arguments.model, **row}
        write_json(FILE, [*others, *rows.values()])
        print(json.dumps({name: value for name, value in row.items() if name != "windows"}), flush=True)

    parent, tokenizer = load_model(arguments.model)
    windows = windows_of("kinds", tokenizer, LENGTH, WINDOWS)
    if "parent" not in rows:
        _, peak = measured([sys.executable, "-c", IMPORTS])
        losses = judge(parent, windows).mean
        size = 4 * parent.num_parameters()
        keep(
            {
                "name": "parent",
                "of": None,
                "bytes": size,
                "imports_megabytes": peak,
                "mean_loss": losses["loss"],
            }
        )
    for name, (origin, words) in STEPS.items():
        made = path(name, arguments)
        if name in rows and made.exists():
            continue
        command = [part if part not in {"MODEL", *STEPS} else str(path(part, arguments)) for part in words]
        kind = name.rpartition(", ")[2]
        command += ["--type", kind, "--overwrite"] if words[0] == "export" else []
        seconds, peak = measured([sys.executable, "-m", "comp_lib", *command])
        small, _ = load_model(made)
        by_kind = judge(small, windows, parent)
        row = {"name": name, "of": origin, "seconds": seconds, "peak_megabytes": peak, "bytes": size_of(made)}
        if made.suffix == ".gguf":
            row |= in_llama_cpp(made, small, windows)
        else:
            row["removed"] = 1 - decoder_parameters(small) / decoder_parameters(parent)
        value, interval = by_kind.mean["increase"], by_kind.intervals()["increase"] or UNKNOWN
        gaps = {
            kind: [round(gap, 5) for gap in one.by_sequence["increase"]]
            for kind, one in by_kind.kinds.items()
        }
        keep({**row, "mean": [value, *interval], "kl": by_kind.mean["kl"], "windows": gaps})


def path(name: str, arguments: argparse.Namespace) -> Path:
    """Where a model is; MODEL stands for the parent, as it was named."""
    plain = name.replace(", ", "-").lower()
    if name == "MODEL":
        return Path(arguments.model)
    return arguments.work / (f"{plain}.gguf" if name.rpartition(", ")[2].startswith("q") else plain)


def size_of(made: Path) -> int:
    """Bytes of its weights on disk."""
    return (
        made.stat().st_size
        if made.is_file()
        else sum(file.stat().st_size for file in made.glob("*.safetensors"))
    )


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and the highest resident memory in MB of the process with its children."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            peak = max(peak, sum(each.memory_info().rss for each in everybody))
        except psutil.NoSuchProcess:  # it has just ended
            continue
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, peak / 2**20


@torch.inference_mode()
def in_llama_cpp(file: Path, model: torch.nn.Module, windows: dict[str, torch.Tensor]) -> dict:
    """Mean loss of the first ASKED tokens of each kind, in nats per token: llama.cpp's, and transformers'."""
    ids = torch.cat([text[:1, :ASKED] for text in windows.values()])
    server = llama_cpp.start(file, context=2 * ASKED)
    theirs = llama_cpp.losses(server, ids).mean().item()
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    ours = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).item()
    return {"llama_cpp": {"tokens": ids.numel() - len(ids), "loss": theirs, "in_transformers": ours}}


def healing(model: str = "smollm2-135m") -> str:
    """What healing brings and costs after COMP: loss, memory and time of a step, size of a file."""
    own = {row["name"]: row for row in read_json(FILE) if row["model"] == model}
    rows = []
    for name in SHOWN:
        row = own[name]
        loss, memory = "{:.3f} ({:.3f} to {:.3f})".format(*row["mean"]), row["peak_megabytes"]
        cells = [f"{memory - own['parent']['imports_megabytes']:,.0f}", f"{row['seconds'] / 60:.1f}", ""]
        rows.append([name, loss, *(["", "", f"{row['bytes'] / 1e6:.0f}"] if "llama_cpp" in row else cells)])
    return markdown([model, "loss added (95%)", "memory, MiB", "minutes", "file, MB"], rows)


if __name__ == "__main__":
    sys.exit(main())
