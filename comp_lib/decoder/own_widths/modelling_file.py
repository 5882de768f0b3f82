"""The Python file that a folder with own widths brings, so that transformers alone can build its model.

It is written for the model type of the folder, and is the same in all folders of that type. `own_widths`
makes its classes of the same text, so the two cannot differ. No file of a folder is ever run here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # type: ignore[attr-defined]
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from ...utils.errors import InputError, warn_once
from ..families import TYPE_PREFIX

TEMPLATE = '''\
"""{causal_model} whose layers differ in width. Written by comp-lib, alike for all of these.

`per_layer_config` in config.json gives layers a number of neurons (intermediate_size) or heads of their own.
transformers reads it, but builds all layers alike. Here each is built again, from its own config. The rest is
transformers' code. This file imports nothing else, and opens no file and no connection.
"""
from transformers import {config}, {causal_model}, {base_model}


class Comp{config}({config}):
    model_type = "{prefix}{model_type}"

    def validate(self):
        """Leave the stock checks out: they look for one number of heads."""


class OwnWidths:
    def __init__(self, config):
        widths, config.per_layer_config = config.to_dict().get("per_layer_config"), None
        super().__init__(config)  # all layers alike
        config.per_layer_config = widths
        base = getattr(self, "model", self)
        base.rotary_emb.config = config.per_layer_config[0]  # which asks for one number of heads, too
        for index, layer_config in enumerate(config.per_layer_config):
            base.layers[index] = type(base.layers[index])(layer_config, index)
        self.post_init()

    def set_attn_implementation(self, *arguments, **options):
        super().set_attn_implementation(*arguments, **options)
        for module in self.modules():
            if hasattr(module, "config"):  # a layer has a copy
                module.config._attn_implementation = self.config._attn_implementation


class Comp{base_model}(OwnWidths, {base_model}):
    config_class = Comp{config}


class Comp{causal_model}(OwnWidths, {causal_model}):
    config_class = Comp{config}
'''


def stock_names(model_type: str) -> dict[str, str]:
    """Auto class of transformers -> name of its class for this stock model type.

    Raises InputError for a type without one of them.
    """
    tables: dict[str, Mapping[str, Any]] = {
        "AutoConfig": CONFIG_MAPPING_NAMES,
        "AutoModel": MODEL_MAPPING_NAMES,
        "AutoModelForCausalLM": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    names = {auto_class: str(table.get(model_type, "")) for auto_class, table in tables.items()}
    if not all(name.isidentifier() for name in names.values()):
        raise InputError(
            expected="a decoder of transformers, whose layers can differ in width",
            got=f"model type {model_type!r}",
            hint="choose another, such as llama",
        )
    return names


def file_name(model_type: str) -> str:
    """Name of the file for this stock model type.

    >>> file_name("qwen2")
    'modeling_comp_qwen2.py'
    """
    return f"modeling_{TYPE_PREFIX}{model_type}.py"


def auto_map(model_type: str) -> dict[str, str]:
    """The field of a config.json that tells transformers where its classes are.

    >>> auto_map("qwen2")["AutoModelForCausalLM"]
    'modeling_comp_qwen2.CompQwen2ForCausalLM'
    """
    module_name = file_name(model_type).removesuffix(".py")
    return {auto_class: f"{module_name}.Comp{name}" for auto_class, name in stock_names(model_type).items()}


def file_text(model_type: str) -> str:
    """All of the file for this stock model type."""
    names = stock_names(model_type)
    return TEMPLATE.format(
        prefix=TYPE_PREFIX,
        model_type=model_type,
        config=names["AutoConfig"],
        base_model=names["AutoModel"],
        causal_model=names["AutoModelForCausalLM"],
    )


def write_modelling_file(folder: Path, model_type: str) -> None:
    """Write the file for this stock model type into `folder`."""
    (folder / file_name(model_type)).write_text(file_text(model_type), encoding="utf-8", newline="\n")


def say_foreign_files(folder: Path, model_type: str) -> None:
    """Say in a line of the log of each Python file in `folder` that is not the one written here.

    None is run in any case. A folder, a pipe or a broken link of such a name has the hash of no bytes.
    """
    for path in sorted(folder.glob("*.py")):
        content = path.read_bytes() if path.is_file() else b""
        if content != file_text(model_type).encode():
            digest = hashlib.sha256(content).hexdigest()
            warn_once(
                f"comp-lib ignores {path} (sha256 {digest}), which is not the modelling file that it writes"
            )
