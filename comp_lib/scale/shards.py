"""One layer's statistics over the workers of a Dask cluster.

They are sums over tokens (`gram`), so sequences are dealt out in shards, each worker sums its own, and the sums are
added in pairs, on the workers, as a tree:

    ((C_1 + C_2) + (C_3 + C_4)) + ...

The tree depends on the number of shards alone, not on who is done first or how many workers there are: the same bytes
come every time. Against one process only the order of the additions differs, which are in float64.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..calibration.stream import batches, to_device
from ..errors import InputError
from ..families import dense_layer
from ..prune_layer import Gather, HiddenStates, Watching
from ..statistics.gram import Sums

if TYPE_CHECKING:
    from distributed import Client

SHARDS = 16  # more than most clusters have workers, so that a slow one holds up little


def over(client: Client, shards: int = SHARDS) -> Gather:
    """A `gather` for `prune` that computes on the CPUs of the workers of `client`, in at most that many `shards`.

    Workers need this library. A worker that dies costs its shards, which others compute again.
    """

    import dask  # an extra

    def gather(watching: Watching, hidden: HiddenStates, reference: HiddenStates | None) -> Sums:
        device = dense_layer(watching.layer, watching.which).weight.device
        if device.type != "cpu":
            raise InputError(f"expected a layer on the CPU to share among workers, got one on {device}: device='cpu'")
        # once to each worker; the shards travel with their tasks, so that they can be done again, though Dask warns
        sent = client.scatter(watching, broadcast=True, hash=False)
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
            parts = [
                client.submit(_part, sent, hidden[rows], None if reference is None else reference[rows], pure=False)
                for rows in slices(hidden.shape[0], hidden.shape[1], shards)
            ]
        while len(parts) > 1:
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [client.submit(operator.add, *pair, pure=False) if len(pair) == 2 else pair[0] for pair in pairs]
        sums: Sums = parts[0].result()
        return sums

    return gather


def slices(count: int, length: int, shards: int) -> list[slice]:
    """`count` sequences of `length` tokens in at most `shards` runs, cut where one process would cut its batches."""
    parts = torch.tensor([rows.stop for rows in batches(count, length)]).tensor_split(shards)
    stops = [int(part[-1]) for part in parts if len(part)]
    return [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def _part(watching: Watching, hidden: Tensor, reference: Tensor | None) -> Sums:
    """The sums of one shard, with a layer of its own: a step hangs hooks on it, and a worker has several threads."""
    with torch.no_grad():  # a worker's threads know nothing of the caller's
        return replace(watching, layer=to_device(watching.layer, "cpu"))(hidden, reference)
