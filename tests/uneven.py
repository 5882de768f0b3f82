"""Models whose layers differ in width, and the folders in which tests save them."""

from __future__ import annotations

import json

import torch
from variants import build, tokens

from comp_lib.decoder.own_widths.meta_model import with_true_config
from comp_lib.decoder.structure import has_inseparable_groups
from comp_lib.decoder.surgery import shrink

NAMES = ("all-at-once", "mistral-window", "qwen2", "qwen3", "smollm3", "gemma3", "phi3", "granite", "olmo2")
NAMES += ("ernie4_5-bias",)
IDS = tokens(2, 16)


def uneven(name: str = "gqa", **overrides):
    """A model with 20, 24 and 28 neurons in its layers, and one KV group instead of two in the second."""
    model = build(name, **overrides)
    for index, layer in enumerate(model.model.layers):
        shrink(layer, "mlp", torch.arange(20 + 4 * index))
        if index == 1 and not has_inseparable_groups(model):
            shrink(layer, "attention", torch.arange(1, 2))
    return model


def save(model, tokenizer, folder):
    with_true_config(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit(folder, **fields):
    """Set these fields of the folder's config.json; None deletes one."""
    path = folder / "config.json"
    changed = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
