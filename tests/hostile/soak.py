"""Kill, fuzz and kill again, for as long as you like: `make soak MINUTES=10`.

Runs of a tiny model from disk to disk are killed (SIGKILL) at random moments, again and again, until they end; each
must end with the bytes of an undisturbed run, and leave nothing beside them. In between the fuzzers of `test_fuzz.py`
run with a new seed, and the tests in which a grid loses its workers and its scheduler. Prints counts; ends with 1 at
the first thing that went wrong. Not part of CI: each round is a draw.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer
from variants import build, tokens

from comp_lib.calibration.text import load_text
from comp_lib.scale.journal import partial_folder
from comp_lib.scale.model_on_disk import open_streamed
from comp_lib.scale.prune_to import Saving, prune_to
from comp_lib.settings import Settings
from comp_lib.system import hashes

TESTS = Path(__file__).parents[1]
BASE = Settings(ratio=0.3, layers=1, multiple=4, kv_groups=1, aim="dense")
REQUESTS = {
    "uniform": BASE,
    "measured": replace(BASE, ratio=0.2, layers=0, kv_groups=None, widths="measured"),
    "paper": replace(BASE, widths="per-layer", recovery="mask", aim="self"),
    "flap": Settings(ratio=0.2, method="flap", recovery="bias", multiple=4),
}
KILLS = 40  # runs in one round
OTHERS = ("compare/test_cluster.py", "-k", "dies or restarts or interrupted")  # a grid that loses workers, a scheduler


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="default: another one each time")
    arguments = parser.parse_args()
    end, draw, counts = time.monotonic() + 60 * arguments.minutes, random.Random(arguments.seed), Counter()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        parent = make_parent(Path(folder))
        calm = {name: calm_run(parent, name) for name in REQUESTS}
        while time.monotonic() < end or not counts["tests with a grid that loses its cluster"]:
            for _ in range(KILLS):
                counts += killed_run(parent, *draw.choice(list(calm.items())), draw)
            counts += pytest_counts("fuzz", ("hostile/test_fuzz.py",), draw)
            counts += pytest_counts("tests with a grid that loses its cluster", OTHERS, draw)
            print(", ".join(f"{count:,} {what}" for what, count in counts.items()), flush=True)
    return 0


def make_parent(folder: Path) -> Path:
    """A tiny random model with a tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    parent = folder / "parent"
    build("gqa").save_pretrained(parent)
    text = load_text("calibration")
    core = Tokenizer(models.WordLevel({letter: place for place, letter in enumerate(sorted(set(text)))}, "a"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="a").save_pretrained(parent)
    return parent


def run(parent: Path, name: str, out: Path) -> None:
    model, _ = open_streamed(parent)
    tokenizer, windows = AutoTokenizer.from_pretrained(parent), tokens(2, 12)
    saving = Saving(name="parent", windows=windows, overwrite=True)
    prune_to(out, model, tokenizer, tokens(8), REQUESTS[name], saving=saving)


def calm_run(parent: Path, name: str) -> tuple[dict[str, str | None], float]:
    """What an undisturbed run leaves, and the seconds that it takes."""
    out = parent.with_name(f"calm-{name}") / "small"
    out.parent.mkdir()
    run(parent, name, out)  # the first also loads what is imported late
    start = time.perf_counter()
    run(parent, name, out)
    return content(out), time.perf_counter() - start


def content(folder: Path) -> dict[str, str | None]:
    return {path.name: hashes.of_file(path) for path in sorted(folder.iterdir())}


def killed_run(parent: Path, name: str, calm: tuple[dict[str, str | None], float], draw: random.Random) -> Counter:
    """One result, made by processes that are killed until one comes through. Exits the soak when it is another."""
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
            if out.exists() and content(out) != expected:
                sys.exit(f"{name}: after {kills} kills {out} is neither absent nor complete")
        else:
            run(parent, name, out)
            os._exit(0)
        if content(out) != expected or partial_folder(out).exists():
            sys.exit(f"{name}: other bytes than an undisturbed run's after {kills} kills")
    return Counter({"runs with identical bytes": 1, "kills": kills})


def pytest_counts(what: str, arguments: tuple[str, ...], draw: random.Random) -> Counter:
    """A round of tests with a seed of its own. Exits the soak when one fails."""
    environment = os.environ | {"COMP_LIB_FUZZ_SEED": str(draw.randrange(2**31))}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nCOMP_LIB_FUZZ_SEED={environment['COMP_LIB_FUZZ_SEED']}")
    passed = next(part.split()[0] for part in done.stdout.splitlines()[-1].split(",") if "passed" in part)
    return Counter({what: int(passed)})


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with threads must not be forked
    sys.exit(main())
