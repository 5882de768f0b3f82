"""`per_layer_config`: what a config.json says of layers with widths of their own, as transformers spells it.

    {"3": {"intermediate_size": 960, "num_attention_heads": 6, "num_key_value_heads": 2}}

Layers and fields that are not there have the value of the config itself, which is that of the widest layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ...utils.errors import InputError
from ...utils.files import SAVE_AGAIN_HINT
from ..shape import Shape

FIELD = "per_layer_config"
NEURONS = "intermediate_size"
HEADS = "num_attention_heads"
GROUPS = "num_key_value_heads"


def widest(shape: Shape) -> dict[str, int]:
    """The fields of a config for the widest layers of `shape`.

    Attention that is more than KV groups has no fields: it stays as it is.
    """
    fields = {NEURONS: max(shape.neurons)}
    if shape.group_parameters:
        fields["head_dim"] = shape.head_dim
        fields[HEADS] = max(shape.kv_groups) * shape.group_heads
        fields[GROUPS] = max(shape.kv_groups)
    return fields


def per_layer_fields(shape: Shape) -> dict[str, dict[str, int]]:
    """The value of `per_layer_config` for `shape`, beside the fields `widest(shape)`."""
    shared = widest(shape)
    result = {}
    for index, (neurons, groups) in enumerate(zip(shape.neurons, shape.kv_groups, strict=True)):
        fields = {NEURONS: neurons, HEADS: groups * shape.group_heads, GROUPS: groups}
        own_fields = {name: value for name, value in fields.items() if shared.get(name, value) != value}
        if own_fields:
            result[str(index)] = own_fields
    return result


def checked_per_layer(fields: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The `per_layer_config` in the fields of a config.json.

    Raises InputError unless it names layers and widths that a model can have. Whether the weights have those
    widths is not checked here.
    """
    entries = fields.get(FIELD)
    layers = fields.get("num_hidden_layers")
    if not isinstance(entries, dict):
        _refuse(entries, layers)
    for name, widths in entries.items():
        if not _is_layer(name, layers) or not isinstance(widths, dict) or not _fit(widths, fields):
            _refuse({name: widths}, layers)
    return entries


def _is_layer(name: str, layers: object) -> bool:
    """Whether `name` is the index of one of `layers` layers, with or without zeros in front."""
    # short, since Python refuses to read a very long number
    is_short_number = name.isascii() and name.isdigit() and len(name) < 10
    return is_short_number and type(layers) is int and int(name) < layers


def _fit(widths: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether one entry has numbers above 0, and as many query heads for a KV group as the config itself."""
    if not widths.keys() <= {NEURONS, HEADS, GROUPS}:
        return False
    merged = {name: widths.get(name, fields.get(name)) for name in (HEADS, GROUPS)}
    is_attention = HEADS in widths or GROUPS in widths
    numbers = list(widths.values())
    if is_attention:
        numbers += [merged[HEADS], merged[GROUPS], fields.get(HEADS), fields.get(GROUPS)]
    if not all(type(number) is int and number > 0 for number in numbers):  # True is an int, too
        return False
    return not is_attention or merged[HEADS] * fields[GROUPS] == merged[GROUPS] * fields[HEADS]


def _refuse(got: object, layers: object) -> NoReturn:
    """Raises InputError for anything but the `per_layer_config` of a model with `layers` layers."""
    raise InputError(
        expected=f"a config.json that can be built, with {FIELD} as {{LAYER: {{FIELD: NUMBER}}}}: layers "
        f"below {layers}, the fields {NEURONS}, {HEADS} and {GROUPS}, numbers above 0, heads that fit groups",
        got=str(got)[:60],
        hint=SAVE_AGAIN_HINT,
    )
