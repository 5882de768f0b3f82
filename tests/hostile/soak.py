"""Kill and kill again, for as long as you like: `make soak MINUTES=10`.

Runs of a tiny model from disk to disk are killed (SIGKILL) at random moments until one comes through, which must leave
the bytes of an undisturbed run and nothing beside them. Ends with 1 at the first that does not. Not part of CI.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from command import content
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from variants import build, tokens

from comp_lib.disk.from_disk import Saving, prune_to
from comp_lib.disk.model_on_disk import open_streamed
from comp_lib.settings import PRESETS, Settings

REQUESTS = {
    "stock": Settings(ratio=0.3, layers=1, multiple=4, kv_groups=1, aim="dense"),
    "best": Settings(ratio=0.2, multiple=4, **PRESETS["best"]),
    "paper": Settings(multiple=4, **PRESETS["paper"]),
    "flap": Settings(method="flap", recovery="bias", multiple=4),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="default: another one each time")
    arguments = parser.parse_args()
    end, draw, runs, kills = time.monotonic() + 60 * arguments.minutes, random.Random(arguments.seed), 0, 0
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        parent = make_parent(Path(folder) / "parent")
        calm = {name: calm_run(parent, name) for name in REQUESTS}
        while time.monotonic() < end:
            kills += killed_run(parent, *draw.choice(list(calm.items())), draw)
            runs += 1
            print(f"\r{runs:,} runs with identical bytes after {kills:,} kills", end="", flush=True)
    print()
    return 0


def make_parent(folder: Path) -> Path:
    """A tiny random model with a tokenizer of letters."""
    from tokenizers import Tokenizer, models

    build("gqa").save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a"))).save_pretrained(folder)
    return folder


def run(parent: Path, name: str, out: Path) -> None:
    saving = Saving(name="parent", windows=tokens(2, 12))
    tokenizer = AutoTokenizer.from_pretrained(parent)
    prune_to(out, open_streamed(parent)[0], tokenizer, tokens(8), REQUESTS[name], saving=saving)


def calm_run(parent: Path, name: str) -> tuple[dict[str, bytes], float]:
    """What an undisturbed run leaves, and the seconds that it takes."""
    for out in (parent.parent / f"{turn}-{name}" / "small" for turn in ("first", "calm")):  # the first imports, too
        start = time.perf_counter()
        run(parent, name, out)
    return content(out), time.perf_counter() - start


def killed_run(parent: Path, name: str, calm: tuple[dict[str, bytes], float], draw: random.Random) -> int:
    """The number of kills after which a run came through. Exits the soak where its result is another one."""
    expected, seconds = calm
    with tempfile.TemporaryDirectory(dir=parent.parent) as place:
        out, kills = Path(place) / "small", 0
        while (process := os.fork()) != 0:
            time.sleep(draw.uniform(0.0, 1.3 * seconds))
            os.kill(process, 9)
            _, status = os.waitpid(process, 0)
            if status == 0:
                break
            if not os.WIFSIGNALED(status):
                sys.exit(f"{name}: a run that went on after {kills} kills failed: look above")
            kills += 1
        else:
            run(parent, name, out)
            os._exit(0)
        if content(Path(place)) != {f"small/{path}": data for path, data in expected.items()}:
            sys.exit(f"{name}: other bytes than an undisturbed run's after {kills} kills, in {place}")
    return kills


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with threads must not be forked
    sys.exit(main())
