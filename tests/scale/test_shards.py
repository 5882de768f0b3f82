"""Statistics over the workers of a cluster: what one process sums, in any company."""

from __future__ import annotations

import logging
import pickle
from functools import partial

import pytest
import torch
from distributed import Client, LocalCluster

from comp_lib.calibration.stream import attention_step, batches, embed, mlp_step, rotary
from comp_lib.prune import prune
from comp_lib.prune_layer import HERE, Watching
from comp_lib.scale.parcels import Parcel
from comp_lib.scale.shards import Shards, slices
from comp_lib.settings import Settings

SEQUENCES, LENGTH = 13, 96


def cluster(workers, threads):
    """Workers behind sockets, so that all that they get and give is serialised."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=None,
        silence_logs=logging.CRITICAL,
    )


@pytest.fixture(scope="module")
def client():
    with cluster(2, 2) as found, Client(found, set_as_default=False) as client:
        yield client


@pytest.fixture
def some(tiny_llama):
    """A model, tokens, and its hidden states."""
    model = tiny_llama()
    ids = torch.randint(512, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model, ids, embed(model, ids)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """So that some sequences make many batches."""
    monkeypatch.setattr("comp_lib.calibration.stream.BATCH_TOKENS", 2 * LENGTH)


def sums(gram):
    return {name: getattr(gram, name) for name in ("xtx", "xty", "x", "ones") if getattr(gram, name) is not None}


@pytest.mark.parametrize("which", ["attention", "mlp"])
@pytest.mark.parametrize("weighted", [True, False])
def test_shards_sum_to_what_one_process_sums(some, client, which, weighted):
    model, _, hidden = some
    rope = rotary(model, LENGTH, "cpu", hidden.dtype)
    step = mlp_step if which == "mlp" else partial(attention_step, rope=rope)
    reference = hidden + torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    statistics = Watching(model.model.layers[0], which, step, weighted)
    for target in (None, reference):
        with torch.no_grad():
            (alone,) = HERE.sums(statistics, hidden, target, 1)
        (together,) = Shards(client, 5).sums(statistics, hidden, target, 1)
        assert together.tokens == alone.tokens == SEQUENCES * LENGTH
        assert set(sums(together)) == set(sums(alone)) and ("xty" in sums(alone)) == (target is not None)
        for name, value in sums(alone).items():
            scale = float(value.abs().max())
            torch.testing.assert_close(getattr(together, name), value, rtol=0, atol=1e-13 * scale, msg=name)
        (again,) = Shards(client, 5).sums(statistics, hidden, target, 1)
        assert all(torch.equal(value, sums(again)[name]) for name, value in sums(together).items())


@pytest.mark.parametrize("shards", [1, 2, 5, 13])
def test_halves_are_those_of_one_process_wherever_shards_are_cut(some, client, shards):
    model, _, hidden = some
    statistics = Watching(model.model.layers[0], "mlp", mlp_step, True)
    with torch.no_grad():
        alone = HERE.sums(statistics, hidden, hidden + 1, 2)
    together = Shards(client, shards).sums(statistics, hidden, hidden + 1, 2)
    assert [half.tokens for half in together] == [half.tokens for half in alone] == [7 * LENGTH, 6 * LENGTH]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.xtx, theirs.xtx, rtol=1e-5, atol=1e-5 * float(theirs.xtx.max()))
        torch.testing.assert_close(ours.xty, theirs.xty, rtol=1e-5, atol=1e-5 * float(theirs.xty.abs().max()))


def test_states_come_through_as_in_one_process_and_are_sent_once(some, client, monkeypatch):
    model, _, hidden = some
    carrier, held, submit = Shards(client, 5), [], Shards._submit

    def counted(self, place, task, *arguments):
        held.extend(argument for argument in arguments if task.__name__ == "hold")
        return submit(self, place, task, *arguments)

    monkeypatch.setattr(Shards, "_submit", counted)
    layer = model.model.layers[0]
    statistics = Watching(layer, "mlp", mlp_step, True)
    carrier.sums(statistics, hidden, hidden, 2)
    there = carrier.through(layer, mlp_step, hidden)
    with torch.no_grad():
        assert torch.equal(carrier.settled(there), HERE.through(layer, mlp_step, hidden))
    assert carrier.settled(hidden) is hidden
    tensors = len(list(layer.parameters()))
    assert len(held) == 5 + tensors + 2  # shards, tensors of the layer, and two frames


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_parcel_holds_what_was_put_in(dtype):
    tensor, part = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(dtype), torch.zeros(0, 4)
    parameter, again = torch.nn.Parameter(tensor), []
    for protocol in (4, 5):
        buffers = None if protocol == 4 else []
        sent = pickle.dumps(
            Parcel.of({"a": [tensor, tensor[1:].T], "b": (part, parameter)}),
            protocol,
            buffer_callback=None if buffers is None else buffers.append,
        )
        assert protocol == 4 or len(sent) < 1000 and len(buffers) == 4
        parcel = pickle.loads(sent, buffers=buffers)
        again.append(pickle.loads(pickle.dumps(parcel)))  # by who never opened it, as a scheduler does
        for opened in (parcel.open(), again[-1].open(), again[-1].open()):
            assert torch.equal(opened["a"][0], tensor) and torch.equal(opened["a"][1], tensor[1:].T)
            assert opened["b"][0].shape == (0, 4) and isinstance(opened["b"][1], torch.nn.Parameter)
            assert all(each.data_ptr() % 64 == 0 for each in (opened["a"][0], opened["b"][1]))
        assert parcel.__sizeof__() > 2 * tensor.nbytes


def test_the_number_of_workers_changes_no_bit(some, client):
    model, _, hidden = some
    statistics = Watching(model.model.layers[1], "mlp", mlp_step, True)
    (two,) = Shards(client).sums(statistics, hidden, None, 1)
    with cluster(1, 1) as single, Client(single, set_as_default=False) as other:
        (one,) = Shards(other).sums(statistics, hidden, None, 1)
    assert all(torch.equal(value, sums(one)[name]) for name, value in sums(two).items())


@pytest.mark.parametrize(
    "settings",
    [
        Settings(multiple=4, aim="dense", kv_groups=1),
        Settings(multiple=4, ratio=0.4, layers=1),
        Settings(multiple=4, widths="per-layer", ridge=1e-3),
        Settings(multiple=4, recovery="bias"),
    ],
    ids=["dense", "self, a layer dropped", "per-layer", "bias"],
)
def test_a_model_pruned_over_workers_is_the_same(some, client, settings):
    model, ids, _ = some
    alone, together = prune(model, ids, settings), prune(model, ids, settings, carrier=Shards(client, 5))
    assert alone.plan == together.plan
    for (name, one), other in zip(alone.model.named_parameters(), together.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("count", "length", "shards"), [(1, 96, 4), (13, 96, 5), (13, 96, 100), (40, 7, 3), (6, 9999, 2)]
)
def test_slices_cover_all_and_cut_between_batches_where_there_are_enough(count, length, shards):
    found = slices(count, length, shards)
    assert [row for rows in found for row in range(count)[rows]] == list(range(count))
    assert len(found) == min(shards, count) and all(rows.start < rows.stop for rows in found)
    cuts = {rows.start for rows in batches(count, length)}
    assert len(cuts) < shards or all(rows.start in cuts for rows in found)
