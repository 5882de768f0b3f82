"""Runs from files to files as tests begin and stop them."""

from __future__ import annotations

import torch
from transformers import AutoConfig
from variants import build

from comp_lib.checkpoints.from_disk.model_on_disk import ModelOnDisk
from comp_lib.checkpoints.tensors import TensorFiles
from comp_lib.decoder.own_widths.meta_model import make_meta_model
from comp_lib.pruning.settings import Settings

SETTINGS = Settings(ratio=0.3, drop_layers=1, multiple=4, kv_groups=1, widths="uniform", aim="dense")


class Killed(BaseException):
    """Stands for kill -9: like that, no code of the library may catch it."""


def opened(folder, dtype=torch.float32):
    """The model in a folder, which stays on disk."""
    return ModelOnDisk(make_meta_model(AutoConfig.from_pretrained(folder), dtype), TensorFiles(folder))


def saved(folder, name="gqa", **overrides):
    """Write a variant into a folder: (that folder, the model as it loads from there)."""
    model = build(name, **overrides)
    model.save_pretrained(folder)
    return folder, type(model).from_pretrained(folder, attn_implementation="sdpa").eval()
