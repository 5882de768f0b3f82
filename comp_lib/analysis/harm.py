"""What the model loses without a layer: `importance.layers` computes it; here it is cached, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..families import family_of
from ..families.protocol import Device, Model
from ..importance.layers import sequence_loss_increase
from ..system import hashes
from ..system.cache import remembered
from ..system.machine import cache_folder
from .sample import Sample


def entry(what: str, model: Model, sample: Sample, *key: object) -> Path:
    """The cache's file for a result: named by the model, the text, the code and whatever else decides it."""
    decides = [hashes.of_code(), hashes.of_model(model), hashes.of_tensor(sample.ids), *key]
    return cache_folder() / "analysis" / f"{what}-{hashes.of_value(decides)[:24]}.safetensors"


def layer_harm(model: Model, sample: Sample, present: Sequence[int] = (), device: Device = "cpu") -> Tensor:
    """`importance.layers.sequence_loss_increase`, from the cache where it is there: (layers, S), nats per token."""
    present = () if len(present) == len(family_of(model).layers(model)) else present
    path = entry("harm", model, sample, list(present))
    harm: Tensor = remembered(path, lambda: sequence_loss_increase(model, sample.ids, device, present=present))
    return harm
