"""Statistics over the workers of a cluster: what one process sums, in any company."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from distributed import Client, LocalCluster

from comp_lib.calibration.stream import attention_step, batches, embed, mlp_step, rotary
from comp_lib.errors import InputError
from comp_lib.prune import prune
from comp_lib.prune_layer import Watching, at_once
from comp_lib.scale.shards import over, slices
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
            alone = at_once(statistics, hidden, target)
        together = over(client, 5)(statistics, hidden, target)
        assert together.tokens == alone.tokens == SEQUENCES * LENGTH
        assert set(sums(together)) == set(sums(alone)) and ("xty" in sums(alone)) == (target is not None)
        for name, value in sums(alone).items():
            scale = float(value.abs().max())
            torch.testing.assert_close(getattr(together, name), value, rtol=0, atol=1e-13 * scale, msg=name)
        again = over(client, 5)(statistics, hidden, target)
        assert all(torch.equal(value, sums(again)[name]) for name, value in sums(together).items())


def test_the_number_of_workers_changes_no_bit(some, client):
    model, _, hidden = some
    statistics = Watching(model.model.layers[1], "mlp", mlp_step, True)
    two = over(client)(statistics, hidden, None)
    with cluster(1, 1) as single, Client(single, set_as_default=False) as other:
        one = over(other)(statistics, hidden, None)
    assert all(torch.equal(value, sums(one)[name]) for name, value in sums(two).items())


def test_a_model_pruned_over_workers_is_the_same(some, client):
    model, ids, _ = some
    settings = Settings(multiple=4, aim="dense", kv_groups=1)
    shared = []

    def gather(statistics, *streams):
        shared.append(statistics.which)
        return over(client)(statistics, *streams)

    alone, together = prune(model, ids, settings), prune(model, ids, settings, gather=gather)
    assert set(shared) == {"attention", "mlp"}
    assert alone.plan == together.plan
    for (name, one), other in zip(alone.model.named_parameters(), together.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("count", "length", "shards"), [(1, 96, 4), (13, 96, 5), (13, 96, 100), (40, 7, 3), (6, 9999, 2)]
)
def test_slices_cover_all_and_cut_between_batches(count, length, shards):
    found = slices(count, length, shards)
    assert [row for rows in found for row in range(count)[rows]] == list(range(count))
    cuts = {rows.start for rows in batches(count, length)}
    assert len(found) <= shards and all(rows.start in cuts and rows.start < rows.stop for rows in found)


def test_a_layer_elsewhere_is_refused(tiny_llama):
    layer = tiny_llama().model.layers[0].to("meta")
    with pytest.raises(InputError, match="on meta"):
        over(None)(Watching(layer, "mlp", mlp_step, True), torch.zeros(1, 2, 3), None)
