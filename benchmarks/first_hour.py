"""How long a new user waits: seconds of the first commands in a fresh HOME

    python benchmarks/first_hour.py && python benchmarks/readme.py

Each command is a process of its own, as people type it, with an empty HOME and cache; what pip installs is
not counted. A row keeps its seconds, its CPU seconds with those of its children, and the longest time without
a new line of output. One dense forward pass over 8,192 tokens, before and after, gives the unit of time: if
both differ, the machine was not idle. The row of the machine says what it is and how busy it was. Rows go to
first_hour.json, from which readme.py writes a table of RESULTS.md. With another `--model` there is no demo,
which has the included model.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
from common import dense_pass, markdown, parser_of, read_json, write_json

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.utils.machine import cores

FILE = Path(__file__).with_suffix(".json")
SEQUENCES = 32  # of the dense pass
LENGTH = 256  # tokens of each
COMMANDS = {  # name -> what is typed after comp-lib; MODEL and HERE stand for the model and an empty folder
    "demo": ("demo", "--out", "HERE/demo"),
    "prune": ("prune", "MODEL", "--out", "HERE/small", "--ratio", "0.2"),
    "evaluate": ("evaluate", "HERE/small", "--against", "MODEL"),
    "report": ("report", "MODEL", "--out", "HERE/report.html"),
}
COLUMNS = 120  # of a line of the page
LIMITS = {"demo": 180, "evaluate": 180, "report": 240}  # seconds that are to be enough on two idle cores


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--commands", default=",".join(COMMANDS), help="names, with commas, in this order")
    parser.add_argument("--file", type=Path, default=FILE, help="where the rows go")
    arguments = parser.parse_args()
    names = arguments.commands.split(",")
    if arguments.model != INCLUDED_MODEL and "demo" in names:
        names.remove("demo")
    content: dict[str, Any] = {
        "model": arguments.model,
        "machine": machine(),
        "dense_pass": [unit(arguments.model)],
        "commands": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            words = [word.replace("HERE", folder) for word in COMMANDS[name]]
            words = [arguments.model if word == "MODEL" else word for word in words]
            home = Path(folder) / f"home of {name}"
            home.mkdir()
            content["commands"][name] = timed([sys.executable, "-m", "comp_lib", *words], home)
            print(f"{name}: {content['commands'][name]}", flush=True)
    content["dense_pass"].append(unit(arguments.model))
    write_json(arguments.file, content)
    print(table(content))


def machine() -> dict[str, Any]:
    """What computes, and how busy it is."""
    name = platform.processor() or platform.machine()
    cpu_file = Path("/proc/cpuinfo")
    if cpu_file.is_file():
        lines = cpu_file.read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {"cpu": name, "cores": cores(), "load": round(os.getloadavg()[0], 1)}


def unit(model: str) -> float:
    """Seconds of a dense pass over SEQUENCES x LENGTH tokens."""
    loaded, tokenizer = models.load(model)
    length = min(LENGTH, loaded.config.max_position_embeddings)
    ids = calibration_tokens("calibration", tokenizer, sequences=SEQUENCES, length=length)
    return dense_pass(loaded, ids)


def timed(command: Sequence[str], home: Path) -> dict[str, float]:
    """Run a command with `home` as HOME: its seconds, CPU seconds, and the longest time without output.

    Raises CalledProcessError where it fails.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("COMP_LIB_CACHE", "HF_HOME")}
    kept |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines = []
    times = [started]
    for line in process.stdout or ():
        lines.append(line)
        times.append(time.perf_counter())
    if process.wait() != 0:
        sys.stderr.writelines(lines)
        raise subprocess.CalledProcessError(process.returncode, command)
    times.append(time.perf_counter())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    silence = max(later - earlier for earlier, later in zip(times, times[1:], strict=False))
    return {
        "seconds": round(times[-1] - started, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "longest_silence": round(silence, 1),
    }


def table(content: dict[str, Any]) -> str:
    """The rows as Markdown, and the machine in a sentence."""
    rows = []
    for name, row in content["commands"].items():
        limit = f"{LIMITS[name]}" if name in LIMITS else "-"
        passes = row["seconds"] / min(content["dense_pass"])
        cells = (f"{row['seconds']:.0f}", limit, f"{row['cpu_seconds']:.0f}", f"{row['longest_silence']:.0f}")
        rows.append((f"`{name}`", *cells, f"{passes:.0f}"))
    head = ("", "seconds", "at most", "CPU seconds", "longest silence", "dense passes")
    computer = content["machine"]
    before, after = content["dense_pass"]
    sentences = (
        f"{content['model']}, {computer['cores']} cores ({computer['cpu']}), load {computer['load']} before. "
        f"One dense pass over {SEQUENCES * LENGTH:,} tokens: {before:.1f} s before, {after:.1f} s after."
    )
    return f"{markdown(head, rows)}\n\n{textwrap.fill(sentences, COLUMNS)}"


def stored_table() -> str:
    """The table of what is stored."""
    content = read_json(FILE)
    return table(content) if content else "Not measured yet."


if __name__ == "__main__":
    sys.exit(main())
