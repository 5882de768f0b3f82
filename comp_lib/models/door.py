"""The door through which every model comes in: what its settings may say, in one table.

A model folder or a GGUF file may come from anyone. Nothing in it is believed before it has passed here: a field of
config.json is honoured only if it is in FIELDS and its value within the bounds, which leave room for the largest models
of these families several times over. All other fields are left at the door: names of kernels to fetch, code to run,
files to read instead, switches of transformers that change what a model returns. (How it attends is not the folder's to
say either: see `reading`.) Then the sizes must fit each other. What is left can be built, and needs no more memory than
its numbers say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..errors import InputError
from ..system.tensor_files import TensorFiles
from ..system.untrusted import LARGE, SMALL, ordinary, read_object, short

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# what transformers reads beside the weights as JSON, each an object
SETTINGS = ("config", "generation_config", "tokenizer_config", "special_tokens_map", "added_tokens")
LIMITS = dict.fromkeys((*TOKENIZER_FILES, "merges.txt", "vocab.txt", "tekken.json"), LARGE)  # bytes, by name
ENDINGS = {".jinja": SMALL, ".model": LARGE}  # the same by ending; all other files are not read
TEMPLATES = "additional_chat_templates"  # the one folder in a model folder that is read
REDIRECTS = re.compile(r"adapter_config\.json|shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Kind:
    """What a field may hold: in words, and as a test. None always passes: transformers fills in its default."""

    words: str
    allows: Callable[[Any], bool]


def whole(low: int, high: int) -> Kind:
    return Kind(f"a whole number from {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high)


def number(low: float, high: float) -> Kind:
    words = f"a number from {low:g} to {high:g}"
    return Kind(words, lambda value: type(value) in (int, float) and low <= value <= high)


def one_of(*options: str) -> Kind:
    return Kind(f"one of {', '.join(sorted(options))}", lambda value: isinstance(value, str) and value in options)


def each(kind: Kind, most: int) -> Kind:
    words = f"at most {most:,} entries in a list, each {kind.words}"
    return Kind(words, lambda value: isinstance(value, list) and len(value) <= most and all(map(kind.allows, value)))


def either(one: Kind, other: Kind) -> Kind:
    return Kind(f"{one.words}, or {other.words}", lambda value: one.allows(value) or other.allows(value))


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NAME = Kind("a name", lambda value: isinstance(value, str) and re.fullmatch(r"[\w.-]{1,100}", value) is not None)
DTYPE = one_of("float64", "float32", "bfloat16", "float16")
TOKEN = whole(0, 10_000_000)
LENGTH = whole(1, 1_000_000_000)
MULTIPLIER = number(1e-6, 1e6)
NOTHING = Kind("nothing, since no model here has it", lambda value: False)
LAYER_TYPES = ("full_attention", "sliding_attention")

WIDEST = {"intermediate_size": 4_000_000, "num_attention_heads": 8_192, "num_key_value_heads": 8_192}
WIDTHS = {name: whole(1, most) for name, most in WIDEST.items()}  # what may differ from layer to layer
OWN_WIDTHS = {name: whole(0, most) for name, most in WIDEST.items()}  # of one layer; 0: it lacks that step
FIELDS: dict[str, Kind] = WIDTHS | {
    "model_type": NAME,
    "architectures": each(NAME, 10),
    "transformers_version": NAME,
    "tokenizer_class": NAME,
    "num_hidden_layers": whole(1, 1_000),
    "hidden_size": whole(2, 262_144),
    "head_dim": whole(2, 8_192),
    "vocab_size": whole(1, 10_000_000),
    "max_position_embeddings": LENGTH,
    "rms_norm_eps": number(1e-20, 1.0),
    "hidden_act": one_of(*ACT2FN),
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "use_bias": FLAG,
    "attention_dropout": number(0.0, 1.0),
    "initializer_range": number(0.0, 1.0),
    "tie_word_embeddings": FLAG,
    "use_cache": FLAG,
    "pretraining_tp": whole(1, 1_000),
    "dtype": DTYPE,
    "torch_dtype": DTYPE,
    "bos_token_id": TOKEN,
    "eos_token_id": either(TOKEN, each(TOKEN, 100)),
    "pad_token_id": TOKEN,
    "use_sliding_window": FLAG,
    "sliding_window": LENGTH,
    "max_window_layers": whole(0, 1_000_000),
    "layer_types": each(one_of(*LAYER_TYPES), 1_000),
    "rope_theta": number(1.0, 1e15),
    "partial_rotary_factor": number(1.0, 1.0),
    "rope_scaling": Kind("an object", lambda value: isinstance(value, dict)),
    "rope_parameters": Kind("an object", lambda value: isinstance(value, dict)),
    "no_rope_layers": each(whole(0, 1), 1_000),
    "no_rope_layer_interval": whole(1, 1_000),
    "embedding_multiplier": MULTIPLIER,
    "residual_multiplier": MULTIPLIER,
    "attention_multiplier": MULTIPLIER,
    "logits_scaling": MULTIPLIER,
    "query_pre_attn_scalar": MULTIPLIER,
    "hidden_activation": one_of(*ACT2FN),
    "use_bidirectional_attention": Kind("false", lambda value: value is False),
    "attn_logit_softcapping": NOTHING,
    "final_logit_softcapping": NOTHING,
    "rope_local_base_freq": number(1.0, 1e15),
    "sliding_window_pattern": whole(1, 1_000),
    "original_max_position_embeddings": LENGTH,
    "resid_pdrop": number(0.0, 1.0),
    "embd_pdrop": number(0.0, 1.0),
    "clip_qkv": NOTHING,
    "per_layer_config": Kind("an object", lambda value: isinstance(value, dict)),
    "serialize_explicit_per_layer_config": FLAG,
}
ROPE_TYPE = one_of("default", *ROPE_INIT_FUNCTIONS)
ROPE: dict[str, Kind] = {  # of rope_parameters, and of rope_scaling, its former name
    "rope_type": ROPE_TYPE,
    "type": ROPE_TYPE,
    "rope_theta": FIELDS["rope_theta"],
    "partial_rotary_factor": FIELDS["partial_rotary_factor"],
    "factor": number(1e-3, 1e6),
    "low_freq_factor": number(1e-3, 1e6),
    "high_freq_factor": number(1e-3, 1e6),
    "original_max_position_embeddings": LENGTH,
    "attention_factor": number(1e-3, 1e3),
    "beta_fast": number(1e-3, 1e6),
    "beta_slow": number(1e-3, 1e6),
    "mscale": number(0.0, 1e3),
    "mscale_all_dim": number(0.0, 1e3),
    "truncate": FLAG,
    "short_factor": each(number(1e-3, 1e6), 4_096),
    "long_factor": each(number(1e-3, 1e6), 4_096),
}
GENERATION: dict[str, Kind] = {name: FIELDS[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def honoured(fields: Mapping[str, Any], place: str | Path) -> dict[str, Any]:
    """Of what a config.json says, that which is listened to. Raises InputError for a value out of bounds."""
    if fields.get("pad_token_id") == -1:  # how the first Llamas say that there is none
        fields = {**fields, "pad_token_id": None}
    kept = _within(fields, FIELDS, "", place)
    for name in ("rope_scaling", "rope_parameters"):
        if kept.get(name) is not None:
            kept[name] = _rotary(kept[name], f"{name}.", place)
    if kept.get("per_layer_config") is not None:
        kept["per_layer_config"] = _per_layer(kept, place)
    return kept


def check_sizes(described: Mapping[str, Any], place: str | Path) -> None:
    """Raises InputError unless the sizes of a config with all its fields, `described`, fit each other."""
    vocabulary = described["vocab_size"]
    every = [{**described, **layer} for layer in ({}, *(described.get("per_layer_config") or {}).values())]
    for sizes in every:
        heads, groups = sizes["num_attention_heads"], sizes["num_key_value_heads"]
        if not heads and not groups and sizes["intermediate_size"]:
            continue  # no attention
        head_dim = sizes.get("head_dim") or sizes["hidden_size"] // max(heads, 1)
        if not heads or not groups or heads % groups:
            _refuse(f"heads that are a multiple of the {groups} KV heads", f"{heads} heads", place)
        if head_dim < 2 or head_dim % 2:
            _refuse("an even head_dim, whose halves turn together", f"{head_dim}", place)
    for name in OWN_WIDTHS:
        if len(every) > 1 and not any(sizes[name] for sizes in every[1:]):
            _refuse(f"a layer whose {name} is above 0", "none", place)
    if "sliding_attention" in (described.get("layer_types") or ()) and not described.get("sliding_window"):
        _refuse("a sliding_window for layer_types with sliding_attention", "none", place)
    if (described.get("pad_token_id") or 0) >= vocabulary:
        _refuse(f"pad_token_id below vocab_size, {vocabulary}", f"{described['pad_token_id']}", place)


def check_generation(folder: Path, vocabulary: int) -> None:
    """Raises InputError for special tokens in generation_config.json that the model does not have."""
    path = folder / "generation_config.json"
    fields = _within(read_object(path), GENERATION, "", path)
    if (fields.get("pad_token_id") or 0) >= vocabulary:
        _refuse(f"pad_token_id below vocab_size, {vocabulary}", f"{fields['pad_token_id']}", path)


def check_folder(folder: Path) -> TensorFiles:
    """The weights of a folder that can be read. Raises InputError for what can be seen without reading them.

    That is: files missing, truncated, too large, or no files; settings that are no JSON; another model behind this one.
    """
    for path in (*folder.iterdir(), *(folder / TEMPLATES).glob("*")):
        if REDIRECTS.fullmatch(path.name):
            advice = "merge what it belongs to into one model, and save that"
            raise InputError(f"expected one model in {folder}, got {path.name}, which stands for another; {advice}")
        if path.is_dir() or not path.exists():
            continue
        ordinary(path, LIMITS.get(path.name, ENDINGS.get(path.suffix)))
        if path.suffix == ".json" and path.stem in SETTINGS:
            read_object(path)
    files = TensorFiles(folder)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        expected = f"a tokenizer ({' or '.join(TOKENIZER_FILES)}) in {str(folder)!r}"
        raise InputError(f"expected {expected}, got none; save it there with tokenizer.save_pretrained")
    return files


def check_tied(files: TensorFiles) -> None:
    """Raises InputError if a head beside tied embeddings differs from them: nobody knows which one the model means."""
    if not {EMBEDDING, HEAD} <= files.shapes.keys():
        return
    same = files.shapes[EMBEDDING] == files.shapes[HEAD]
    pieces = zip(*(files.pieces(name, torch.float32) for name in (EMBEDDING, HEAD)), strict=True)
    if not same or not all(torch.equal(one, other) for one, other in pieces):
        got = f"{HEAD} with other numbers in {files.folder}; set tie_word_embeddings to false, or remove that tensor"
        raise InputError(f"expected one table of tokens, as tie_word_embeddings says, got {got}")


def _within(fields: Mapping[str, Any], kinds: Mapping[str, Kind], prefix: str, place: str | Path) -> dict[str, Any]:
    kept = {name: fields[name] for name in kinds if name in fields}
    for name, value in kept.items():
        if value is not None and not kinds[name].allows(value):
            _refuse(f"{prefix}{name} to be {kinds[name].words}", short(value), place)
    return kept


def _rotary(fields: Mapping[str, Any], prefix: str, place: str | Path) -> dict[str, Any]:
    """The rotary embedding: of all layers, or kind of layer -> its own."""
    if not fields or not fields.keys() <= set(LAYER_TYPES):
        return _within(fields, ROPE, prefix, place)
    for name, entry in fields.items():
        if not isinstance(entry, dict):
            _refuse(f"{prefix}{name} to be an object", short(entry), place)
    return {name: _within(entry, ROPE, f"{prefix}{name}.", place) for name, entry in fields.items()}


def _per_layer(fields: Mapping[str, Any], place: str | Path) -> dict[int, dict[str, Any]]:
    """layer -> its own widths."""
    layers, entries = fields.get("num_hidden_layers") or 0, fields["per_layer_config"]
    for name, entry in entries.items():
        if not (re.fullmatch(r"\d{1,4}", str(name)) and int(name) < layers and isinstance(entry, dict)):
            _refuse(f"per_layer_config to be layer, below {layers} -> widths", f"{short(name)}: {short(entry)}", place)
        if other := sorted(entry.keys() - WIDTHS.keys()):
            _refuse(f"of layer {name} only {', '.join(WIDTHS)}", short(other[0]), place)
    return {int(name): _within(entry, OWN_WIDTHS, f"layer {name}: ", place) for name, entry in entries.items()}


def _refuse(expected: str, got: str, place: str | Path) -> None:
    raise InputError(f"expected {expected}, got {got} in {place}; fetch or save the model again")
