"""Models whose layers differ in width, of any family.

A stock model builds all layers alike. A plan that keeps more in important layers needs a number of neurons
and of heads for each. A folder with such widths has the model type "comp_qwen2", say, `per_layer_config` in
its config.json (see `per_layer`), and a file of Python with two classes (see `modelling_file`):

    config    the stock config, of a type of its own
    model     the stock model; then each layer is built again, from its own config

transformers alone runs that file, if its user says so. Here it is never run: `register("qwen2")` makes the
same classes of the text that comp-lib itself writes. From then on `AutoModelForCausalLM.from_pretrained` of
this process takes such a folder without a flag. `load_model` does so in any process. Folders with one width
(`Shape.fits_stock_config`) are plain folders of their family and need none of this.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .modelling_file import auto_map, file_name, file_text, stock_names, write_modelling_file
from .per_layer import FIELD, checked_per_layer

# the model types of docs/families.md, which vLLM is told about
TESTED_TYPES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "gemma3_text",
    "phi3",
    "granite",
    "olmo2",
    "ernie4_5",
    "gemma",
    "gemma2",
    "vaultgemma",
    "ministral",
    "ministral3",
    "olmo",
    "exaone4",
    "seed_oss",
    "glm",
    "glm4",
    "hunyuan_v1_dense",
    "cwm",
    "hyperclovax",
    "olmo3",
    "qwen3_5_text",
    "helium",
    "stablelm",
)


@functools.cache
def register(model_type: str) -> tuple[type[Any], type[Any]]:
    """Make "comp_`model_type`" known to transformers; return its config class and its model class.

    Raises InputError for a type that transformers does not have.

    >>> config_class, model_class = register("qwen2")
    >>> config_class.model_type, model_class.__name__
    ('comp_qwen2', 'CompQwen2ForCausalLM')
    """
    names = stock_names(model_type)
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(file_text(model_type), file_name(model_type), "exec"), namespace)
    config_class, base_class, model_class = (namespace[f"Comp{name}"] for name in names.values())

    def save_pretrained(config: Any, save_directory: str | Path, **options: Any) -> None:
        """Write config.json, and the modelling file beside it."""
        super(config_class, config).save_pretrained(save_directory, **options)
        write_modelling_file(Path(save_directory), model_type)

    config_class.save_pretrained = save_pretrained
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, base_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    return config_class, model_class


def checked_fields(fields: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The fields of a config.json of own widths, with `auto_map` as comp-lib writes it.

    model_type: the stock type of the family.

    Raises InputError for widths that no model can have.
    """
    return {**fields, FIELD: checked_per_layer(fields), "auto_map": auto_map(model_type)}


def register_all() -> None:
    """Register all of TESTED_TYPES that the installed transformers has.

    vLLM calls it in each of its processes (an entry point in pyproject.toml), so that it knows the type of a
    folder without running the folder's file.
    """
    for model_type in TESTED_TYPES:
        try:
            _, model_class = register(model_type)
        except (ImportError, RuntimeError, ValueError, AttributeError):
            continue  # a version of transformers without this type, or with another form of it
        setattr(transformers, model_class.__name__, model_class)  # where vLLM 0.32 looks for a class
