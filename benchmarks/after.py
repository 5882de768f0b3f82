"""What healing and quantising add to a pruned model, and what they cost

    python benchmarks/after.py [--model smollm2-135m] [--work build/after]

COMP and LLM-Pruner get the same training. Each step is a command that people type, in a process of its own. A
row keeps its seconds, and the highest resident memory of the process and its children, next to that of the
imports alone. The texts that the parent writes are to be in the cache by then: call this twice, and delete
the folders between. It prunes by the defaults of `prune`, to multiples of 256. It heals by the defaults of
`heal`, on text that the parent wrote. It exports COMP's healed folder, and the parent. Then the evaluation
text of each kind judges every model, with 95% intervals of the loss above the parent's; of a .gguf file the
weights that it holds are judged. llama.cpp also computes the loss of the file itself, on a few of these
tokens, next to that of transformers on the same tokens. Rows go to after.json, which lesson 10 shows; a
second call goes on. Gemma 3's rows there are of an older run, on six windows of 512 tokens of each kind;
training_seconds are those that `heal` prints. Rows named "scales" are of a way of training that `heal` no
longer has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import models
import psutil
import torch
from common import HERE, decoder_parameters, markdown, parser_of, read_json, write_json

from comp_lib.checkpoints.gguf import llama_cpp
from comp_lib.checkpoints.load import load_model
from comp_lib.decoder.types import Model
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import NO_INTERVAL
from comp_lib.evaluation.windows import windows_of

FILE = HERE / "after.json"
IMPORTS = "import peft, comp_lib.cli.app, comp_lib.pruning.comp, comp_lib.recovery.healing"
PRUNE = ("--ratio", "0.2", "--multiple", "256", "--judged-on", "none", "--overwrite")
HEAL = ("--parent", "MODEL", "--out")
STEPS = {  # what is made -> of what, by which command; MODEL is the parent
    "COMP": ("MODEL", ("prune", "MODEL", "--out", "COMP", *PRUNE)),
    "LLM-Pruner": ("MODEL", ("prune", "MODEL", "--out", "LLM-Pruner", *PRUNE, "--method", "llm-pruner")),
    "COMP, healed": ("COMP", ("heal", "COMP", *HEAL, "COMP, healed")),
    "LLM-Pruner, healed": ("LLM-Pruner", ("heal", "LLM-Pruner", *HEAL, "LLM-Pruner, healed")),
    "COMP, healed, q8_0": ("COMP, healed", ("export", "COMP, healed", "--gguf", "COMP, healed, q8_0")),
    "COMP, healed, q4_0": ("COMP, healed", ("export", "COMP, healed", "--gguf", "COMP, healed, q4_0")),
    "parent, q4_0": ("MODEL", ("export", "MODEL", "--gguf", "parent, q4_0")),
}
WINDOWS = 8  # of each kind of text
LENGTH = 384  # tokens of a window
LLAMA_CPP_TOKENS = 128  # tokens of each kind that llama.cpp reads
SHOWN = ("COMP", "COMP, healed", "COMP, healed, q4_0", "parent, q4_0")  # in docs/heal.md


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/after"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ["COMP_LIB_CACHE"] = str((arguments.work / "cache").resolve())
    stored = read_json(FILE)
    rows = {row["name"]: row for row in stored if row["model"] == arguments.model}
    other_models = [row for row in stored if row["model"] != arguments.model]

    def keep(row: dict) -> None:
        rows[row["name"]] = {"model": arguments.model, **row}
        write_json(FILE, [*other_models, *rows.values()])
        print(json.dumps({name: value for name, value in row.items() if name != "windows"}), flush=True)

    parent, tokenizer = models.load(arguments.model)
    windows_by_text = windows_of("kinds", tokenizer, LENGTH, WINDOWS)
    if "parent" not in rows:
        keep(parent_row(parent, windows_by_text))
    for name in STEPS:
        output = path(name, arguments)
        if name not in rows or not output.exists():
            keep(step_row(name, output, arguments, parent, windows_by_text))


def parent_row(parent: Model, windows_by_text: dict[str, torch.Tensor]) -> dict:
    _, peak = measured([sys.executable, "-c", IMPORTS])
    return {
        "name": "parent",
        "of": None,
        "bytes": 4 * parent.num_parameters(),
        "imports_megabytes": peak,
        "mean_loss": judge(parent, windows_by_text).mean.loss,
    }


def step_row(
    name: str,
    output: Path,
    arguments: argparse.Namespace,
    parent: Model,
    windows_by_text: dict[str, torch.Tensor],
) -> dict:
    """Carries out the step of that name, and judges what it makes."""
    origin, template = STEPS[name]
    command = [str(path(word, arguments)) if word in {"MODEL", *STEPS} else word for word in template]
    if template[0] == "export":
        command += ["--type", name.rpartition(", ")[2], "--overwrite"]
    seconds, peak = measured([sys.executable, "-m", "comp_lib", *command])
    small, _ = load_model(output)
    judgement = judge(small, windows_by_text, parent)
    row = {"name": name, "of": origin, "seconds": seconds, "peak_megabytes": peak, "bytes": size_of(output)}
    if output.suffix == ".gguf":
        row |= in_llama_cpp(output, small, windows_by_text)
    else:
        row["removed"] = 1 - decoder_parameters(small) / decoder_parameters(parent)
    interval = judgement.intervals.increase or NO_INTERVAL
    row["mean"] = [judgement.mean.increase, *interval]
    row["kl"] = judgement.mean.kl
    row["windows"] = {
        kind: [round(gap, 5) for gap in evaluation.by_sequence["increase"]]
        for kind, evaluation in judgement.texts.items()
    }
    return row


def path(name: str, arguments: argparse.Namespace) -> Path:
    """Where a model of STEPS is; MODEL stands for the parent, as it is loaded."""
    if name == "MODEL":
        return Path(models.located(arguments.model))
    stem = name.replace(", ", "-").lower()
    quantised = name.rpartition(", ")[2].startswith("q")
    return arguments.work / (f"{stem}.gguf" if quantised else stem)


def size_of(output: Path) -> int:
    """Bytes of a model's weights on disk; `output` is a .gguf file or a folder."""
    files = [output] if output.is_file() else output.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and the highest resident memory in MiB of the process with its children."""
    start = time.perf_counter()
    peak = 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            family = [root, *root.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in family))
        except psutil.NoSuchProcess:  # it has just ended
            continue
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, peak / 2**20


@torch.inference_mode()
def in_llama_cpp(file: Path, model: torch.nn.Module, windows_by_text: dict[str, torch.Tensor]) -> dict:
    """Mean loss of the first tokens of each kind, in nats per token: llama.cpp's, and transformers'."""
    ids = torch.cat([text[:1, :LLAMA_CPP_TOKENS] for text in windows_by_text.values()])
    server = llama_cpp.start(file, context=2 * LLAMA_CPP_TOKENS)
    theirs = llama_cpp.losses(server, ids).mean().item()
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    ours = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).item()
    return {"llama_cpp": {"tokens": ids.numel() - len(ids), "loss": theirs, "in_transformers": ours}}


def healing(model: str = "smollm2-135m") -> str:
    """A table of what healing brings and costs after COMP: loss, memory, time of a step, size of a file."""
    rows = {row["name"]: row for row in read_json(FILE) if row["model"] == model}
    table = []
    for name in SHOWN:
        row = rows[name]
        loss = "{:.3f} ({:.3f} to {:.3f})".format(*row["mean"])
        if "llama_cpp" in row:
            cells = ["", "", f"{row['bytes'] / 1e6:.0f}"]
        else:
            memory = row["peak_megabytes"] - rows["parent"]["imports_megabytes"]
            cells = [f"{memory:,.0f}", f"{row['seconds'] / 60:.1f}", ""]
        table.append([name, loss, *cells])
    return markdown([model, "loss added (95%)", "memory, MiB", "minutes", "file, MB"], table)


if __name__ == "__main__":
    sys.exit(main())
