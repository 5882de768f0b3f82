"""What exporting a model to GGUF takes, and whether llama.cpp then computes what transformers computes.

    python benchmarks/export.py [--model MODEL] [--types f16,q8_0,q4_1,q4_0] [--tokens 256]

Each type is exported by a process of its own: its seconds, and its peak memory above that of the imports, both beside
the size of the file. Then the perplexity of the same tokens of the project's own text, by transformers in float32 from
the model and by llama.cpp from the file. Only f32 and f16 should agree; for the others it is the price of the type.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import parser_of

from comp_lib.calibration.text import load_text
from comp_lib.evaluation.loss import evaluation_tokens, perplexity
from comp_lib.models.load import load_model
from comp_lib.on_device import llama_cpp
from comp_lib.on_device.gguf_export import export_gguf
from comp_lib.system.machine import peak_bytes


def measure(model: str, file: str, kind: str) -> dict[str, float]:
    """Export once, in this process, which has done nothing else."""
    imports = psutil.Process().memory_info().rss
    started = time.perf_counter()
    size = export_gguf(model, file, kind).stat().st_size
    return {"seconds": time.perf_counter() - started, "peak": peak_bytes() - imports, "size": size}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--types", default="f16,q8_0,q4_1,q4_0")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--only", nargs=2, metavar=("FILE", "TYPE"), help="export once, and print JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.model, *arguments.only)))
        return
    model, tokenizer = load_model(arguments.model)
    ids = evaluation_tokens(tokenizer, load_text("evaluation"), arguments.tokens, 1)
    reference = perplexity(model, ids).perplexity
    del model
    print(f"{arguments.model}: perplexity {reference:.4f} in transformers on {ids.numel() - 1:,} tokens")
    print(f"{'type':6}{'file MB':>9}{'seconds':>9}{'peak MB':>9}{'peak / file':>13}{'llama.cpp':>11}{'difference':>12}")
    for kind in arguments.types.split(","):
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "model.gguf")
            command = [sys.executable, __file__, "--model", arguments.model, "--only", file, kind]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            server = llama_cpp.start(file, ids.shape[1] + 1, threads=1)
            there = llama_cpp.losses(server, ids).mean().exp().item()
            del server
        print(
            f"{kind:6}{found['size'] / 1e6:9.1f}{found['seconds']:9.2f}{found['peak'] / 1e6:9.1f}"
            f"{found['peak'] / found['size']:13.2f}{there:11.4f}{there / reference - 1:12.3%}"
        )


if __name__ == "__main__":
    sys.exit(main())
