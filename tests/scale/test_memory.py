"""The memory that is promised: words, what is counted, what is refused, and the resident peak of a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from transformers import LlamaConfig

from comp_lib.errors import InputError
from comp_lib.models.skeleton import skeleton
from comp_lib.scale.limit import Run
from comp_lib.scale.memory import BATCHES, added_bytes, batch_for, bytes_of, judges_layers, needed_bytes, probable_plan
from comp_lib.settings import Settings
from comp_lib.shape import Shape

BILLION = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "vocab_size": 2000}
SETTINGS = Settings(ratio=0.2, layers=0)

# A process of its own: what it had at most is what the promise is about.
PROGRAM = """
import json, sys
import torch
from transformers import AutoConfig
from comp_lib.scale.memory import batch_for, check_memory, needed_bytes
from comp_lib.scale.model_on_disk import Streamed
from comp_lib.scale.prune_to import Means, Saving, prune_to
from comp_lib.settings import Settings
from comp_lib.system.machine import peak_bytes

class Nothing:
    def save_pretrained(self, folder):
        pass

parent, out, sequences, length, aim = sys.argv[1:]
model = Streamed(parent, AutoConfig.from_pretrained(parent), torch.float32)
ids = torch.randint(2000, (int(sequences), int(length)), generator=torch.Generator().manual_seed(0))
settings, saving = Settings(ratio=0.2, layers=0, aim=aim), Saving(windows=ids[:1])
for asked in sys.stdin:  # a limit after the other: what is refused has done nothing yet
    try:
        prune_to(out, model, Nothing(), ids, settings, saving=saving, means=Means(memory=int(asked)))
        print(json.dumps({"peak": peak_bytes()}), flush=True)
    except Exception as error:
        print(json.dumps({"refused": str(error)}), flush=True)
"""


@pytest.mark.parametrize("words, size", [("3GB", 3e9), ("1.5 GiB", 1.5 * 2**30), ("800mb", 8e8), (" 2TB ", 2e12)])
def test_words_for_memory(words, size):
    assert bytes_of(words) == size


@pytest.mark.parametrize(
    "words", ["3", "GB", "", "three GB", "-3GB", "3 G", "1e3GB", "nanGB", "infGB", "1KB", "9999TB"]
)
def test_other_words_are_refused(words):
    with pytest.raises(InputError, match="memory"):
        bytes_of(words)


def run_of(settings=SETTINGS, sequences=4, length=128, **changes):
    shape = Shape.of(skeleton(LlamaConfig(**BILLION | changes, num_hidden_layers=4)))
    return Run(shape, probable_plan(shape, settings), settings, sequences, length, stored=1, saved=4)


@pytest.mark.parametrize("aim", ["self", "dense"])
def test_more_of_anything_needs_no_less(aim):
    settings = replace(SETTINGS, aim=aim)
    few = needed_bytes(run_of(settings), 2048)
    assert few < needed_bytes(run_of(settings, sequences=40), 2048)
    assert few < needed_bytes(run_of(settings, intermediate_size=8192), 2048)
    assert few <= needed_bytes(run_of(settings), 2048, head=10**7) < needed_bytes(run_of(settings), 2048, head=10**9)
    long = run_of(replace(SETTINGS, ratio=0.05), sequences=1, length=4096)
    assert needed_bytes(long, 512) <= needed_bytes(long, 2048)


def test_what_is_judged_by_the_answer_is_counted():
    assert needed_bytes(run_of(), 128) < needed_bytes(run_of(), 128, windows=10**6)
    assert not judges_layers(run_of())
    for changes in ({"layers": 1}, {"widths": "per-layer"}, {"attentions": 1}):
        assert judges_layers(run_of(replace(SETTINGS, **changes)))


def test_the_most_tokens_that_fit_are_in_flight(monkeypatch):
    monkeypatch.setattr("comp_lib.scale.memory.needed_bytes", lambda run, batch, head=0, windows=0: 10**6 * batch)
    assert batch_for(run_of(), 3000 * 10**6) == 2048
    assert batch_for(run_of(), 600 * 10**6) == 512
    assert batch_for(run_of(), 128 * 10**6) == BATCHES[-1]
    with pytest.raises(InputError, match="at least 128 MB"):
        batch_for(run_of(), 127 * 10**6)


def test_measured_widths_are_not_counted():
    with pytest.raises(InputError, match="uniform or per-layer"):
        run_of(replace(SETTINGS, widths="measured"))


@pytest.fixture(scope="module")
def billion(tmp_path_factory):
    """A folder with one layer of the 1B shape."""
    folder = tmp_path_factory.mktemp("billion")
    model = skeleton(LlamaConfig(**BILLION, num_hidden_layers=1)).to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.02)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("aim", ["self", "dense"])
def test_a_process_keeps_what_was_promised(aim, billion, tmp_path):
    """What is too little is refused with the least, and the least is kept."""
    command = [sys.executable, "-c", PROGRAM, billion, tmp_path / "out", "4", "128", aim]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def answer(memory):
            process.stdin.write(f"{memory}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        refusal = answer(500 * 10**6)["refused"]
        assert "expected --memory of at least" in refusal and not (tmp_path / "out").exists()
        least = int(refusal.split("at least ")[1].split(" MB")[0].replace(",", "")) * 10**6
        assert 500 * 10**6 < least < 1100 * 10**6
        assert answer(least + 10**7)["peak"] <= least + 10**7


@pytest.mark.parametrize("aim", ["self", "dense"])
def test_a_7b_model_and_4096_tokens_fit_into_2_gb(aim):
    """With the 0.42 GB that a process has after its imports."""
    seven = {"hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000}
    run = run_of(replace(SETTINGS, aim=aim), sequences=16, length=256, **seven)
    assert added_bytes(run, BATCHES[-1]) < 2e9 - 0.42e9 < added_bytes(run_of(SETTINGS, 64, 256, **seven), BATCHES[-1])


def test_a_sequence_is_not_cut_and_a_planner_keeps_all_states():
    one = run_of(replace(SETTINGS, ratio=0.05), sequences=1, length=4096)
    assert needed_bytes(one, 128) == needed_bytes(one, 4096)
    peer = replace(SETTINGS, layers="auto", method="flap", recovery="none")
    grown = needed_bytes(run_of(peer, sequences=40_000), 128) - needed_bytes(run_of(peer, sequences=20_000), 128)
    assert grown > 2 * 20_000 * 128 * BILLION["hidden_size"] * 4
