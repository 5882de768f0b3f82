"""On a card, or on several: `stand_in_card` refuses what CUDA would refuse, so this runs where there is none."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from distributed import LocalCluster
from safetensors.torch import load_file
from stand_in_card import DEVICE, OnCard, StandInCard
from test_machines import cluster
from test_prune_to import opened, saved
from variants import FAMILIES, build, tokens

from comp_lib.calibration.stream import to_device
from comp_lib.errors import InputError
from comp_lib.importance.neurons import METRICS
from comp_lib.prune import prune
from comp_lib.prune_layer import LayerPruner
from comp_lib.scale import machines, on_workers
from comp_lib.scale.machines import Machines, several_cards
from comp_lib.scale.prune_to import Means, prune_to
from comp_lib.settings import PEERS, Settings, default_recovery
from comp_lib.statistics.solve import spd_factor
from comp_lib.system import machine

CHOOSE = LayerPruner._choose
CASES = {
    "few tokens": {"size": (2, 8)},
    "few tokens, dense": {"size": (2, 8), "aim": "dense"},
    "dense, KV groups": {"aim": "dense", "kv_groups": 1},
    "measured": {"widths": "measured"},
    "paper": {"widths": "per-layer", "layers": 1, "layer_metric": "block-influence", "recovery": "mask", "ridge": 0.01},
    "greedy": {"layers": 1, "layer_metric": "greedy"},
} | {
    name: {"method": name, "recovery": "mask" if name == "mask-condition" else default_recovery(name)}
    for name in (*PEERS, *METRICS)
}


@pytest.fixture
def card(monkeypatch):
    """A card that everybody in this process finds."""
    there = machine.available_device

    def found(name, double=False):
        return torch.device(name) if torch.device(name).type == DEVICE.type else there(name, double)

    monkeypatch.setattr("comp_lib.system.machine.available_device", found)
    monkeypatch.setattr("comp_lib.settings.available_device", found)
    with StandInCard() as card:
        yield card


def test_the_stand_in_refuses_to_mix(card):
    here, there = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3, device=DEVICE)
    mixing = {
        "+": lambda: here + there,
        "@": lambda: here @ there.T,
        "cat": lambda: torch.cat([here, there]),
        "in place": lambda: there.add_(here),
        "a number": lambda: torch.stack([there[0, 0], torch.tensor(1.0)]),
    }
    for mixed in mixing.values():
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            mixed()
    with pytest.raises(RuntimeError):  # torch itself
        here[torch.tensor([0], device=DEVICE)]
    there[1].mul_(2.0)  # a view
    here[0] = there[1] * torch.tensor(1.0)
    assert there[torch.tensor([1])].tolist() == [[2.0] * 3]
    assert there.tolist() == [[1.0] * 3, [2.0] * 3] and here.tolist() == [[2.0] * 3, [3.0, 4.0, 5.0]]
    assert isinstance(here.to(DEVICE), OnCard) and not isinstance(there.cpu(), OnCard)
    assert card.moved == [12, 24]  # bytes: a row, and all


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_card_prunes_as_the_cpu_does(card, changes):
    changes = {"ratio": 0.3, "multiple": 4} | changes
    ids = tokens(*changes.pop("size", (8, 32)))
    same_as_on_the_cpu("gqa", ids, Settings(**changes, device=str(DEVICE)))


@pytest.mark.parametrize("variant", ["mha", "mistral", "qwen2", *list(FAMILIES)[3:]])
def test_a_card_prunes_every_family(card, variant):
    same_as_on_the_cpu(variant, tokens(4, 32), Settings(ratio=0.3, multiple=4, device=str(DEVICE)))


def test_states_and_weights_leave_the_card_and_no_statistics(card):
    model, ids = build("gqa"), tokens(8, 32)
    states, layers = ids.numel() * model.config.hidden_size * 4, model.config.num_hidden_layers
    prune(model, ids, Settings(ratio=0.3, multiple=4, device=str(DEVICE)))
    assert card.moved.count(states) == 2 * layers  # behind the attention, and behind the MLP
    weights = sum(parameter.nbytes for layer in model.model.layers for parameter in layer.parameters())
    assert sum(size for size in card.moved if size != states) <= weights


def test_a_model_that_is_on_the_card_already_is_pruned_there_and_stays_as_it_is(card):
    model, ids = build("gqa"), tokens(8, 32)
    one = prune(model, ids, Settings(ratio=0.3, multiple=4)).model
    model = to_device(model, DEVICE.type)
    before = [parameter.tolist() for parameter in model.parameters()]
    layer = model.model.layers[0]
    shared = {id(parameter) for parameter in layer.parameters()}
    assert all(id(value) in shared for value in to_device(layer, DEVICE.type).parameters())
    assert not any(id(value) in shared for value in to_device(layer, DEVICE, own=True).parameters())
    other = prune(model, ids, Settings(ratio=0.3, multiple=4, device=DEVICE.type)).model
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert isinstance(theirs.data, OnCard)
        torch.testing.assert_close(theirs.detach().cpu(), mine.detach(), atol=1e-4, rtol=1e-4)
    assert [parameter.tolist() for parameter in model.parameters()] == before


def test_what_is_not_finite_is_refused_on_a_card_too(card):
    """cuSOLVER finds a factor of it."""
    matrix = torch.full((4, 4), torch.nan, dtype=torch.float64, device=DEVICE)
    assert int(torch.linalg.cholesky_ex(matrix)[1]) == 0
    with pytest.raises(InputError, match="finite statistics"):
        spd_factor(matrix)


def test_a_limit_of_memory_counts_no_card(run, card):
    with pytest.raises(InputError, match="--memory with --device cpu, got --device lazy"):
        run("refused", Settings(ratio=0.3, multiple=4, device=DEVICE.type), memory=10**9)


def same_as_on_the_cpu(variant, ids, settings):
    one, other = (prune(build(variant), ids, replace(settings, device=name)) for name in ("cpu", settings.device))
    assert one.plan == other.plan
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert not isinstance(theirs, OnCard)
        torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=1e-4)


@pytest.fixture
def run(tmp_path, tokenizer):
    saved(tmp_path / "parent")

    def carried(name, settings, found=None, memory=None):
        out = tmp_path / name
        prune_to(out, opened(tmp_path / "parent"), tokenizer, tokens(8), settings, means=Means(found, memory))
        return load_file(out / "model.safetensors")

    return carried


@pytest.fixture
def workers_with_cards(card, monkeypatch):
    """What a worker's threads do, with a card of their own."""
    for name in ("sums", "through"):
        task = getattr(on_workers, name)

        @functools.wraps(task)  # by its name, workers find this
        def with_card(*arguments, task=task):
            with StandInCard():
                return task(*arguments)

        monkeypatch.setattr(on_workers, name, with_card)
    monkeypatch.setattr(machines, "DEVICES", ("cpu", DEVICE.type))


@pytest.mark.parametrize("aim", ["self", "dense"])
def test_cards_of_workers_carry_the_text(run, workers_with_cards, aim):
    settings = Settings(ratio=0.3, layers=1, multiple=4, aim=aim)
    on_cards = replace(settings, device=DEVICE.type)
    with cluster(2, processes=False) as two:
        shared = run("shared", on_cards, Machines(two.scheduler_address, 5))
    with cluster(1, processes=False) as one:
        again = run("again", on_cards, Machines(one.scheduler_address, 5))
    alone = run("alone", settings)
    assert shared.keys() == alone.keys() == again.keys()
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-4, msg=name)
        assert torch.equal(shared[name], again[name])


def test_cards_of_this_machine_have_a_worker_each_as_long_as_the_run(run, workers_with_cards, monkeypatch):
    """dask-cuda is not there where there is no card: its cluster is one of Dask, with a worker for each of two."""
    begun = []

    def begin(**options):
        begun.append(cluster(2, processes=False))
        assert options == {"dashboard_address": None}
        return begun[-1]

    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=begin))
    monkeypatch.setattr(machines, "several_cards", lambda device: device == DEVICE.type)
    settings = Settings(ratio=0.3, multiple=4)
    shared, alone = run("shared", replace(settings, device=DEVICE.type), Machines(None, 5)), run("alone", settings)
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-4, msg=name)
    (found,) = begun
    assert isinstance(found, LocalCluster) and found.status.name == "closed"
    with pytest.raises(InputError, match="several cards, --device cuda, and the library dask-cuda, got 0 and"):
        run("refused", settings, Machines(None, 5))

    def broken(**options):
        raise OSError("no driver")

    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=broken))
    with pytest.raises(InputError, match=r"dask-cuda to start a worker for each card, got OSError \(no driver\)"):
        run("broken", replace(settings, device=DEVICE.type), Machines(None, 5))


@pytest.mark.parametrize(
    ("cards", "device", "library", "expected"),
    [(2, "cuda", True, True), (1, "cuda", True, False), (2, "cuda:1", True, False), (2, "cuda", False, False)],
)
def test_several_cards_are_used_where_none_is_named(cards, device, library, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    find = machines.importlib.util.find_spec
    known = {"dask_cuda": object() if library else None}
    monkeypatch.setattr(machines.importlib.util, "find_spec", lambda name: known[name] if name in known else find(name))
    assert several_cards(device) is expected


def test_a_worker_without_a_card_is_named(run, card, monkeypatch):
    monkeypatch.setattr(machines, "DEVICES", ("cpu", DEVICE.type))
    with cluster(1) as one, pytest.raises(InputError, match=f"as the client, got from tcp://.*'{DEVICE.type}'"):
        run("refused", Settings(ratio=0.3, multiple=4, device=DEVICE.type), Machines(one.scheduler_address, 5))


def test_products_are_exact_whatever_the_caller_lets_torch_do(monkeypatch):
    seen = []

    def choose(*given):
        seen.append(torch.get_float32_matmul_precision())
        return CHOOSE(*given)

    monkeypatch.setattr(LayerPruner, "_choose", choose)
    torch.set_float32_matmul_precision("medium")
    try:
        prune(build("gqa"), tokens(4, 32), Settings(ratio=0.3, multiple=4))
        assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_variable_that_rounds_all_products_of_a_card_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv(machine.TF32, "1")
    for name in ("cuda", "cuda:0", "auto"):
        with pytest.raises(InputError, match=f"{machine.TF32}=1: unset it"):
            machine.available_device(name)
    assert machine.available_device("cpu") == torch.device("cpu")
