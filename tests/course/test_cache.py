"""The cache of statistics: it gives the right entry or none, whatever happens on the disk meanwhile."""

from __future__ import annotations

import itertools

import pytest
import torch
from variants import build

from comp_lib.importance.statistics.sums import MatrixStatistics
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError
from comp_lib.utils.hashes import hash_of_model
from course import cache
from course.cache import cached

pytestmark = pytest.mark.slow

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


NUMBERS = itertools.count()


@cached
def numbered(model, ids, argument=None):
    """A new number for each computation: if two calls share an entry, they get the same number."""
    return {"number": next(NUMBERS)}


def number_of(*arguments):
    return int(numbered(*arguments)["number"])


def test_the_second_call_reads_what_the_first_computed(tiny_llama, folder):
    model = tiny_llama()
    compute = Counted()
    first = compute(model, IDS, 0.1)
    second = compute(model, IDS)  # a default is an argument like another
    assert compute.calls == 1
    assert set(second) == {"a", "b"}
    for name in first:
        assert torch.equal(first[name], second[name])
        assert first[name].dtype == second[name].dtype
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


def test_each_thing_that_decides_the_outcome_makes_another_entry(tiny_llama, folder, monkeypatch):
    model = tiny_llama()
    compute = Counted("gram")
    other_compute = Counted("other")
    calls = [
        (compute, model, IDS, 0.1),
        (other_compute, model, IDS, 0.1),
        (compute, tiny_llama(seed=1), IDS, 0.1),
        (compute, model, IDS + 1, 0.1),
        (compute, model, IDS.view(3, 4), 0.1),
        (compute, model, IDS, 0.2),
    ]
    counts = [int(function(*arguments)["b"]) for function, *arguments in calls]
    assert counts == [1, 1, 2, 3, 4, 5]
    assert other_compute.calls == 1
    monkeypatch.setattr("course.cache.hash_of_code", lambda: "another formula")
    assert int(compute(model, IDS, 0.1)["b"]) == 6
    monkeypatch.setattr(cache, "code_of_the_course", lambda: "another lesson")
    assert int(compute(model, IDS, 0.1)["b"]) == 7
    assert len(list(folder.iterdir())) == 8


ARGUMENTS = {
    "numbers in another order, with the same weighted sum": ([1, 2], [3, 1]),
    "tensors with the same weighted sum": (torch.tensor([[1, 2]]), torch.tensor([[3, 1]])),
    "numbers without a border between them": ([1, 23], [12, 3]),
    "the same bytes as other numbers": (torch.zeros(2, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)),
    "the same numbers in another shape": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "settings": (Settings(), Settings(ridge=0.3)),
    "values of another class": (MatrixStatistics.of(torch.ones(2, 2)), Settings()),
    "tensors in a dataclass": (MatrixStatistics.of(torch.ones(2, 2)), MatrixStatistics.of(torch.zeros(2, 2))),
    "nothing": (None, 0),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_differ_have_entries_of_their_own(tiny_llama, case):
    model = tiny_llama()
    first, second = (number_of(model, IDS, argument) for argument in ARGUMENTS[case])
    assert first != second
    assert [number_of(model, IDS, argument) for argument in ARGUMENTS[case]] == [first, second]


def test_the_same_weights_under_another_config_are_another_model():
    """A window of attention, a base of the rotary embedding: no tensor shows them."""
    models = [
        build("gqa"),
        build("mistral-window"),
        build("gqa", rope_parameters={"rope_type": "default"} | BASE),
    ]
    assert len({hash_of_model(model) for model in models}) == 3
    assert len({number_of(model, IDS) for model in models}) == 3


def test_an_argument_that_cannot_be_named_is_refused(tiny_llama):
    with pytest.raises(TypeError, match="expected tensors, models, dataclasses or JSON's values, got {1}"):
        numbered(tiny_llama(), IDS, {1})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_changed_weight_is_another_model(tiny_llama, dtype):
    model = tiny_llama(intermediate_size=300).to(dtype)
    before = hash_of_model(model)
    assert hash_of_model(tiny_llama(intermediate_size=300).to(dtype)) == before
    weight = model.model.layers[1].mlp.down_proj.weight.data
    assert weight.numel() > 50 * 64  # so large that no sample would hold the weight changed below
    weight[3, 7] = 0.0
    assert hash_of_model(model) != before


def test_the_name_of_a_model_does_not_matter_and_its_shape_does(tiny_llama):
    model = tiny_llama()
    before = hash_of_model(model)
    model.config.name_or_path = "somewhere/else"
    assert hash_of_model(model) == before
    assert hash_of_model(tiny_llama(num_hidden_layers=2)) != before


@pytest.mark.parametrize("damage", ["empty", "cut in the header", "cut in the numbers", "not safetensors"])
def test_a_damaged_entry_is_computed_anew(tiny_llama, folder, damage):
    model = tiny_llama()
    compute = Counted()
    compute(model, IDS)
    [path] = folder.iterdir()
    intact = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut in the header": intact[:30],
        "cut in the numbers": intact[:-5],
        "not safetensors": b"hello " * 40,
    }
    path.write_bytes(damaged[damage])
    assert int(compute(model, IDS)["b"]) == 2
    assert int(compute(model, IDS)["b"]) == 2  # the entry is intact again
    assert [path.stat().st_size for path in folder.iterdir()] == [len(intact)]


def test_a_cache_that_cannot_be_written_is_an_input_error(tiny_llama, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "file"))
    # a file where a folder should be: reading finds nothing, writing fails, whoever the user is
    with pytest.raises(InputError, match="COMP_LIB_CACHE") as caught:
        Counted()(tiny_llama(), IDS)
    assert "\n" not in str(caught.value)


def test_results_come_back_with_their_structure():
    calls = []

    @cached
    def result():
        calls.append("computed")
        shared = torch.arange(2)
        tree = {"draw": {"way": shared, "other": [shared, 0.1]}, "tuple": (1, 2), "none": None}
        return tree | {"nan": float("nan"), "empty": torch.ones(0, 3)}

    for answer in (result(), result()):
        draw = answer["draw"]
        assert draw["way"].tolist() == draw["other"][0].tolist() == [0, 1]
        assert draw["way"].dtype == torch.int64
        assert answer["empty"].shape == (0, 3)
        assert draw["other"][1] == 0.1, "to the last bit"
        assert answer["tuple"] == [1, 2]
        assert answer["none"] is None
        assert answer["nan"] != answer["nan"]
    assert calls == ["computed"]
