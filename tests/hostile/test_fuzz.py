"""Thousands of spoilt files: each is opened or refused in one line, at once, and in little memory.

Whatever else escapes is a bug of ours. The seed is fixed (but for `make soak`), and each message of a failure names its
case, so that the case comes back; a finding becomes a row of `test_folders.py` beside this file.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from variants import build

from comp_lib.errors import InputError
from comp_lib.models.gguf_files import open_gguf
from comp_lib.models.load import load_model
from comp_lib.models.per_layer_llama import as_heterogeneous
from comp_lib.models.reading import read_config
from comp_lib.on_device.gguf_export import export_gguf
from comp_lib.scale.journal import Journal
from comp_lib.scale.model_on_disk import open_streamed
from comp_lib.shape import Shape
from comp_lib.surgery import shrink_mlp
from comp_lib.system.machine import peak_bytes
from comp_lib.system.tensor_files import INDEX, TensorFiles

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs alarms")
SEED = os.environ.get("COMP_LIB_FUZZ_SEED", "")  # `make soak` gives another one each time
PATIENCE = 120  # seconds after which a case hangs; none takes one
GROWTH = 1 << 30  # bytes for all cases of a test together
ODD = [None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e-300, 1e300, math.nan, math.inf]
ODD += ["", "x", "load", "../x", "/dev/zero", "kernels-community/x", "\0", "\ud800", "9" * 50, [], [None], [[]], {}]
ODD += [{"": {}}, {"__float__": "NaN"}, {"rope_type": "yarn"}, {"0": {}}, {"AutoConfig": "a--b.C"}]
NAMES = ["to_dict", "model_type", "num_labels", "attribute_map", "per_layer_config", "rope_scaling", "torch_dtype"]
NAMES += ["quantization_config", "sub_configs", "_heterogeneity_spec", "attn_implementation", "layer_types", "auto_map"]
NAMES += ["head_dim", "sliding_window", "use_sliding_window", "partial_rotary_factor", "rope_theta", "is_decoder"]


class Hang(BaseException):
    """No `Exception`, so that nothing on the way takes it for its own."""


@contextmanager
def harmless(case: object) -> Iterator[None]:
    """Whatever the block opens is opened or refused, soon."""

    def ring(*_):
        raise Hang(f"{case} took more than {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    except InputError as error:
        message = str(error)
        assert message.startswith("expected ") and ", got " in message and "\n" not in message, (case, message)
        assert len(message) < 2000, (case, message)
    except BaseException as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def little_memory():
    before = peak_bytes()
    yield
    assert peak_bytes() - before < GROWTH


def flipped(dice: random.Random, content: bytes, end: int | None = None) -> bytes:
    """A few bytes changed, cut out or put in, before `end`."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(min(len(changed), end or len(changed)) or 1)
        kind = dice.randrange(5)
        if kind == 0:
            del changed[at : at + dice.choice([1, 8, 100])]
        elif kind == 1:
            changed[at:at] = dice.randbytes(dice.choice([1, 8]))
        elif kind == 2:
            changed[at : at + 8] = dice.choice([0, 1, 2**32, 2**62, 2**64 - 1]).to_bytes(8, "little")
        else:
            changed[at : at + 1] = bytes([dice.randrange(256)])
    return bytes(changed)


def mutated(dice: random.Random, value: object, names: list[str]) -> object:
    """JSON like `value`, with one thing in it that nobody expects."""
    kind = dice.random()
    if isinstance(value, dict) and value and kind < 0.85:
        name = dice.choice(list(value))
        if kind < 0.1:
            return {key: entry for key, entry in value.items() if key != name}
        if kind < 0.25:
            return value | {dice.choice(names): dice.choice(ODD)}
        return value | {name: mutated(dice, value[name], names)}
    if isinstance(value, list) and value and kind < 0.5:
        return dice.choice([value[1:], value * 2, [*value, dice.choice(ODD)]])
    if type(value) in (int, float) and abs(value) < 1e9 and kind < 0.5:
        return dice.choice([-value, value + 1, value - 1, value * 1000, value * 10**9, float(value), str(value)])
    return dice.choice(ODD)


def deep(dice: random.Random, text: str) -> str:
    """Brackets in the place of the first value, very many."""
    depth = dice.choice([900, 3_000, 200_000])
    return text.replace(": ", ': {"a":' * depth + "[" * depth, 1)


def spoilt(dice: random.Random, content: str, names: list[str]) -> bytes:
    """One more version of a JSON file that somebody may have spoilt."""
    kind = dice.random()
    if kind < 0.02:
        return deep(dice, content).encode()
    if kind < 0.3:
        return flipped(dice, content.encode())
    value = json.loads(content)
    for _ in range(dice.choice([1, 1, 2, 3])):
        value = mutated(dice, value, names)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def fuzz(file: Path, cases: int, spoil: Callable[[random.Random, bytes], bytes], *openers: Callable[[], object]) -> int:
    """Open a spoilt `file` in as many cases, by each opener in turn. Returns how many were opened after all."""
    good, opened = file.read_bytes(), 0
    for case in range(cases):
        file.write_bytes(spoil(random.Random(f"{SEED}{file.name} {case}"), good))
        with harmless((file.name, case)):
            openers[case % len(openers)]()
            opened += 1
    file.write_bytes(good)
    return opened


def json_of(names: list[str]) -> Callable[[random.Random, bytes], bytes]:
    return lambda dice, content: spoilt(dice, content.decode(), names)


@pytest.fixture(params=["gqa", "rope-llama3", "mistral-window", "qwen2-window", "gemma3", "comp_llama"])
def model(request, tokenizer, tmp_path) -> Path:
    """A folder of each family."""
    folder, name = tmp_path / "model", request.param
    model = build("gqa" if name == "comp_llama" else name)
    if name == "comp_llama":
        shrink_mlp(model.model.layers[1], torch.arange(20))
        model = as_heterogeneous(model, Shape.of(model))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def used(folder: Path) -> None:
    """What opens can be used, too: it answers, is read layer by layer, and is saved again."""
    open_streamed(folder)
    model, tokenizer = load_model(folder)
    ids = tokenizer("What a day", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert model(ids).logits.shape == (*ids.shape, model.config.vocab_size)
    for part in (model, tokenizer):
        part.save_pretrained(folder.parent / "again")


def test_settings(model):
    """config.json by itself, and with the settings beside it on the way to a loaded model."""
    opened = fuzz(model / "config.json", 240, json_of(NAMES), lambda: read_config(str(model)))
    assert 0 < opened < 240
    assert fuzz(model / "config.json", 50, json_of(NAMES), lambda: used(model))
    for file in ("generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        fuzz(model / file, 15, json_of(["eos_token_id", "chat_template", "model", "added_tokens"]), lambda: used(model))


def test_shards(tmp_path):
    build().save_pretrained(tmp_path, max_shard_size="20KB")
    opened = fuzz(tmp_path / INDEX, 300, json_of(["weight_map", "metadata", "x"]), lambda: TensorFiles(tmp_path))
    assert 0 < opened < 300
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    fuzz(shard, 200, lambda dice, content: flipped(dice, content, 500), lambda: TensorFiles(tmp_path))


def walked(file: Path) -> None:
    """What a GGUF file holds, read to its end."""
    streamed, _ = open_streamed(file)
    assert len(list(streamed.model.layers)) and streamed.lm_head.weight.numel()


def test_gguf(parent, tmp_path):
    file = export_gguf(parent, tmp_path / "m.gguf", "f32")
    header = open_gguf(file).tensors[0].data_offset

    def spoil(dice, content):
        return flipped(dice, content, dice.choice([24, 200, header, header]))

    opened = fuzz(file, 300, spoil, lambda: open_gguf(file))
    assert 0 < opened < 300
    fuzz(file, 60, spoil, lambda: walked(file))


def test_journal(tmp_path):
    target = tmp_path / "out"
    request = {"model": "m", "settings": {"neurons": 3}}
    with Journal.open(target, request) as journal:
        for layer in range(3):
            journal.add("layer", index=layer, files={}, ranges=[])
    file = journal.path

    def reopen():
        with Journal.open(target, request):
            pass

    fuzz(file, 200, lambda dice, content: flipped(dice, content), reopen)
