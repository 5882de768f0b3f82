"""What the model loses without a layer: `importance.layers` computes it; here it is cached, window by window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..families.protocol import Device, Model
from ..importance.layers import sequence_loss_increase
from ..system.cache import remembered
from ..system.files import hash_of_code, hash_of_model, hash_of_tensor, hash_of_value
from ..system.machine import cache_folder
from .columns import Sample


def cached(what: str, model: Model, sample: Sample, key: object, make: Callable[[], Any]) -> Any:
    """What `make` returns, kept under model, text, code and `key`; what it may be: `system.cache.remembered`."""
    decides = [hash_of_code(), hash_of_model(model), hash_of_tensor(sample.ids), key]
    path = cache_folder() / "analysis" / f"{what}-{hash_of_value(decides)[:24]}.safetensors"
    return remembered(path, make)


def layer_harm(model: Model, sample: Sample, device: Device = "cpu") -> Tensor:
    """`importance.layers.sequence_loss_increase`, from the cache where it is there: (layers, S), nats per token."""
    harm: Tensor = cached("harm", model, sample, [], lambda: sequence_loss_increase(model, sample.ids, device))
    return harm
