"""The cache of statistics: right entry or none, whatever else happens on the disk at the same time."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, randomise
from transformers import LlamaConfig, LlamaForCausalLM
from variants import build

from comp_lib.errors import InputError
from comp_lib.models.kept import clear
from comp_lib.models.kept import kept as entries
from comp_lib.recovery.mask_tuning import Mask
from comp_lib.settings import Settings
from comp_lib.system import hashes
from course.cache import cached
from course.dense_stream import layer_grams
from course.mask_tuning import Way
from course.metrics_on_trial import losses_without

ROOT = Path(__file__).resolve().parents[2]
IDS = torch.arange(12).view(2, 6)
BASE = {"rope_theta": 500.0}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    return tmp_path / "statistics"


class Counted:
    """A cached computation that counts how often it was carried out."""

    def __init__(self, name="gram"):
        self.calls = 0

        def compute(model, ids, ridge=0.1):
            self.calls += 1
            return {"a": torch.arange(6.0).view(2, 3).double(), "b": torch.tensor([self.calls])}

        compute.__name__ = compute.__qualname__ = name
        self.cached = cached(compute)

    def __call__(self, *arguments, **options):
        return self.cached(*arguments, **options)


@cached
def kept(model, ids, argument=None):
    """What it was asked for is not in the result: entries that collide are seen."""
    return {"number": next(NUMBERS)}


NUMBERS = itertools.count()


def test_the_second_call_reads_what_the_first_computed(tiny_llama, folder):
    model, compute = tiny_llama(), Counted()
    first = compute(model, IDS, 0.1)
    second = compute(model, IDS)  # a default is an argument like another
    assert compute.calls == 1 and set(second) == {"a", "b"}
    for name in first:
        assert torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


def test_each_thing_that_decides_the_outcome_makes_another_entry(tiny_llama, monkeypatch):
    model = tiny_llama()
    compute, other = Counted("gram"), Counted("other")
    ask = [
        (compute, model, IDS, 0.1),
        (other, model, IDS, 0.1),
        (compute, tiny_llama(seed=1), IDS, 0.1),
        (compute, model, IDS + 1, 0.1),
        (compute, model, IDS.view(3, 4), 0.1),
        (compute, model, IDS, 0.2),
    ]
    found = [int(function(*arguments)["b"]) for function, *arguments in ask]
    assert found == [1, 1, 2, 3, 4, 5] and other.calls == 1
    monkeypatch.setattr(hashes, "of_code", lambda *rooms: "another formula")
    assert int(compute(*ask[0][1:])["b"]) == 6
    assert len(entries()) == 7


ARGUMENTS = {
    "numbers in another order, with the same weighted sum": ([1, 2], [3, 1]),
    "tensors with the same weighted sum": (torch.tensor([[1, 2]]), torch.tensor([[3, 1]])),
    "numbers without a border between them": ([1, 23], [12, 3]),
    "the same bytes as other numbers": (torch.zeros(2, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)),
    "the same numbers in another shape": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "another first entry": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "tensors in a mapping": ({"a": torch.zeros(2)}, {"a": torch.ones(2)}),
    "settings": (Settings(), Settings(ridge=0.3)),
    "values of another class": (Mask(torch.ones(2), 0.1), Way(0.1)),
    "tensors in a dataclass": (Mask(torch.ones(2), 0.1), Mask(torch.zeros(2), 0.1)),
    "nothing": (None, 0),
    "words": ("1", 1),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_differ_have_entries_of_their_own(tiny_llama, case):
    one, other = ARGUMENTS[case]
    model = tiny_llama()
    first, second = (int(kept(model, IDS, argument)["number"]) for argument in (one, other))
    assert first != second
    assert [int(kept(model, IDS, argument)["number"]) for argument in (one, other)] == [first, second]


@pytest.mark.parametrize("pair", [((1, 2), [1, 2]), (range(1, 3), [1, 2])])
def test_the_same_numbers_are_the_same_argument(tiny_llama, pair):
    one, other = (int(kept(tiny_llama(), IDS, argument)["number"]) for argument in pair)
    assert one == other


def test_the_same_weights_under_another_config_are_another_model():
    """A window of attention, a base of the rotary embedding: no tensor shows them."""
    models = [build("gqa"), build("mistral-window"), build("gqa", rope_parameters={"rope_type": "default"} | BASE)]
    assert len({hashes.of_tensors(model.state_dict().items()) for model in models}) == 1
    assert len({hashes.of_model(model) for model in models}) == 3
    assert len({int(kept(model, IDS)["number"]) for model in models}) == 3


def test_an_argument_that_cannot_be_named_is_refused(tiny_llama):
    with pytest.raises(TypeError, match="expected tensors, models, dataclasses or JSON's values, got {1}"):
        kept(tiny_llama(), IDS, {1})


def test_an_entry_depends_on_the_code_of_its_lesson_alone(tiny_llama, monkeypatch):
    """Of its own module and of those that it imports: an edit of another lesson voids nothing."""
    asked = []
    monkeypatch.setattr(hashes, "of_code", lambda *rooms: asked.append(rooms) or "code")
    losses_without(tiny_llama(), IDS, IDS, {"one": {1: torch.arange(40)}})
    own, behind = {"lessons/metrics_on_trial"}, {"evaluation", "lessons/dense_stream", "lessons/cache"}
    assert set(asked[0]) == own | behind
    layer_grams(tiny_llama(), IDS, 0)
    assert set(asked[-1]) == behind
    kept(tiny_llama(), IDS)
    assert asked[-1] == ("evaluation",)


def test_a_loss_depends_on_the_code_that_measures_it(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "PACKAGE", tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "loss.py").write_text("x")
    before = hashes.of_code.__wrapped__("evaluation")
    (tmp_path / "evaluation" / "loss.py").write_text("y")
    assert hashes.of_code.__wrapped__("evaluation") != before


def test_code_that_computes_counts_and_code_that_draws_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "PACKAGE", tmp_path)
    for room in ("plots", "statistics", "lessons"):
        (tmp_path / room).mkdir()
    (tmp_path / "plan.py").write_text("w")
    (tmp_path / "statistics" / "gram.py").write_text("x")
    (tmp_path / "plots" / "bars.py").write_text("y")
    (tmp_path / "lessons" / "one.py").write_text("1")
    (tmp_path / "lessons" / "two.py").write_text("2")
    whole, lesson = hashes.of_code.__wrapped__(), hashes.of_code.__wrapped__("lessons/one")
    assert whole != lesson
    (tmp_path / "plots" / "bars.py").write_text("z")
    (tmp_path / "lessons" / "two.py").write_text("3")
    assert hashes.of_code.__wrapped__() == whole and hashes.of_code.__wrapped__("lessons/one") == lesson
    for changed in (tmp_path / "plan.py", tmp_path / "statistics" / "gram.py"):
        before = hashes.of_code.__wrapped__()
        changed.write_text("another")
        assert hashes.of_code.__wrapped__() != before
    (tmp_path / "lessons" / "one.py").write_text("-1")
    assert hashes.of_code.__wrapped__("lessons/one") != lesson


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_changed_weight_is_another_model(tiny_llama, dtype):
    model = tiny_llama(intermediate_size=300).to(dtype)
    before = hashes.of_model(model)
    assert hashes.of_model(tiny_llama(intermediate_size=300).to(dtype)) == before
    weight = model.model.layers[1].mlp.down_proj.weight.data
    assert weight.numel() > 50 * hashes.SAMPLE  # so that the place below is in no sample
    weight[3, 7] = 0.0
    assert hashes.of_model(model) != before


def test_exchanged_neurons_are_another_model(tiny_llama):
    model = tiny_llama()
    before = hashes.of_model(model)
    up = model.model.layers[0].mlp.up_proj.weight.data
    up.copy_(up.flip(0))  # the same numbers in another order
    assert hashes.of_model(model) != before


def test_the_name_of_a_model_does_not_matter_and_its_shape_does(tiny_llama):
    model = tiny_llama()
    before = hashes.of_model(model)
    model.config.name_or_path = "somewhere/else"
    assert hashes.of_model(model) == before
    assert hashes.of_model(tiny_llama(num_hidden_layers=2)) != before


@pytest.mark.parametrize("damage", ["empty", "cut in the header", "cut in the numbers", "not safetensors"])
def test_a_damaged_entry_is_computed_anew(tiny_llama, folder, damage):
    model, compute = tiny_llama(), Counted()
    compute(model, IDS)
    [path] = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut in the header": whole[:30],
            "cut in the numbers": whole[:-5],
            "not safetensors": b"hello " * 40,
        }[damage]
    )
    assert int(compute(model, IDS)["b"]) == 2
    assert int(compute(model, IDS)["b"]) == 2  # whole again
    assert [entry.size for entry in entries()] == [len(whole)]


def test_views_of_one_tensor_can_be_kept(tiny_llama):
    whole = torch.arange(20.0).view(4, 5)
    calls = []

    @cached
    def views(model):
        calls.append(model)
        return {"rows": whole[1:], "columns": whole[:, 2], "turned": whole.T}

    found, again = views(tiny_llama()), views(tiny_llama())
    assert len(calls) == 1 and all(torch.equal(found[name], again[name]) for name in ("rows", "columns", "turned"))


def test_a_failing_computation_leaves_nothing(tiny_llama, folder):
    @cached
    def failing(model):
        return {"a": torch.tensor(1 / 0)}

    with pytest.raises(ZeroDivisionError):
        failing(tiny_llama())
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_input_error(tiny_llama, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "file"))
    # a file where a folder should be: reading finds nothing, writing fails, whoever the user is
    with pytest.raises(InputError, match="COMP_LIB_CACHE") as caught:
        Counted()(tiny_llama(), IDS)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_an_input_error_and_leaves_nothing(tiny_llama, folder, small_disk):
    with small_disk(100), pytest.raises(InputError, match="File too large.*COMP_LIB_CACHE"):
        Counted()(tiny_llama(), IDS)
    assert list(folder.iterdir()) == []


def test_size_and_clearing(tiny_llama, folder, tmp_path):
    assert entries() == [] and clear("statistics") == 0  # before there is a folder
    (tmp_path / "gguf-1234").mkdir()
    (tmp_path / "gguf-1234" / "model.safetensors").write_bytes(b"a converted model")
    for name in ("one", "two"):
        Counted(name)(tiny_llama(), IDS)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert sum(entry.size for entry in entries()) == size
    assert clear("statistics") == size and entries() == []
    assert (tmp_path / "gguf-1234" / "model.safetensors").exists()
    again = Counted("one")
    again(tiny_llama(), IDS)
    assert again.calls == 1


def test_clearing_while_another_computes_costs_it_nothing(tiny_llama, folder):
    @cached
    def compute(model, ids):
        clear("all")  # by another kernel, say
        return {"a": torch.ones(3)}

    Counted("other")(tiny_llama(), IDS)
    assert torch.equal(compute(tiny_llama(), IDS)["a"], torch.ones(3))
    assert len(entries()) == 1


WORKER = """
import sys, time, torch
sys.path.insert(0, {tests!r})
from conftest import randomise, TINY
from transformers import LlamaConfig, LlamaForCausalLM
from course.cache import cached
model = randomise(LlamaForCausalLM(LlamaConfig(**TINY)))
print("ready", flush=True)
sys.stdin.readline()  # all start at once
for turn in range(40):
    @cached
    def race(model, ids, half):
        return {{"a": torch.full((200, 200), float(turn)), "b": torch.arange(turn + 1)}}
    found = race(model, torch.arange(6).view(2, 3), turn // 2)
    value = float(found["a"][0, 0])
    assert int(value) // 2 == turn // 2 and bool((found["a"] == value).all()), (turn, value)
    assert torch.equal(found["b"], torch.arange(int(value) + 1))
print("done")
"""


def test_processes_at_once_all_get_whole_entries(python, folder):
    """Two that compute and read the same entries, while this one clears and measures under their feet."""
    tests = str(ROOT / "tests")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    workers = [
        subprocess.Popen(
            [*python, "-c", WORKER.format(tests=tests)],
            stdin=subprocess.PIPE,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for _ in range(2)
    ]
    try:
        assert all(worker.stdout.readline() == "ready\n" for worker in workers)
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        while any(worker.poll() is None for worker in workers):
            clear("all")
            time.sleep(0.02)
        for worker in workers:
            output, errors = worker.communicate()
            assert worker.returncode == 0, errors
            assert output == "done\n"
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert all(path.suffix == ".safetensors" for path in folder.iterdir())


def test_the_statistics_survive_a_half_precision_model(tiny_llama):
    model = randomise(tiny_llama()).to(torch.bfloat16)
    assert torch.equal(Counted("half")(model, IDS)["a"], torch.arange(6.0).view(2, 3).double())


def test_results_come_back_with_their_structure():
    calls = []

    @cached
    def result():
        calls.append("computed")
        shared = torch.arange(2)
        tree = {"draw": {"way": shared, "other": [shared, 0.1]}, "tuple": (1, 2), "none": None}
        return tree | {"nan": float("nan"), "empty": torch.ones(0, 3)}

    for found in (result(), result()):
        assert found["draw"]["way"].tolist() == found["draw"]["other"][0].tolist() == [0, 1]
        assert found["draw"]["way"].dtype == torch.int64 and found["empty"].shape == (0, 3)
        assert found["draw"]["other"][1] == 0.1, "to the last bit"
        assert found["tuple"] == [1, 2] and found["none"] is None and found["nan"] != found["nan"]
    assert calls == ["computed"]


def test_another_process_finds_the_entry():
    """Whatever the order of sets and hashes is there."""
    script = (
        WORKER.split("print(")[0]
        + """
from course.dense_stream import layer_grams
from comp_lib.models.kept import kept
layer_grams(model, torch.arange(12).view(2, 6), 0)
print(len(kept()))
"""
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another one than here
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script.format(tests=str(ROOT / "tests"))]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
    layer_grams(randomise(LlamaForCausalLM(LlamaConfig(**TINY))), IDS, 0)
    assert len(entries()) == 1


def test_results_carry_no_gradient(tiny_llama):
    @cached
    def doubled(model):
        value = 2 * model.lm_head.weight
        assert not value.requires_grad
        return {"value": value}

    assert not doubled(tiny_llama())["value"].requires_grad
