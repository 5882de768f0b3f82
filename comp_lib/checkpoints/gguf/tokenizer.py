"""A tokenizer as the metadata of a GGUF file, which holds no tokenizer.json.

llama.cpp has tokenizers of its own, in two kinds that LLaMA-class models use:

    gpt2   byte-level BPE: tokens and merges, and the name of the rule that cuts a text into words first
    llama  sentencepiece: tokens with scores, the highest merges first; unknown characters become bytes

Both are read from the tokenizer's own JSON. A rule has only a name in GGUF, so it is recognised by what it
does to a probe. The tokenizer that `read.GgufFile.tokenizer` builds of a rule is recognised as that rule. A
tokenizer of another kind is refused by name: llama.cpp would run it, but would cut a text into other tokens
than the model was trained on. The same holds for a file that is read: its rule has to be one that both cut
alike, and what it leaves out means what llama.cpp takes for granted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import decoders
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from ...utils.errors import InputError
from .metadata import SAFETENSORS_HINT

# a text of words, digits, signs, line ends, scripts and cases, which no two rules cut the same way
PRE_TOKENIZER_PROBE = "I'll DON'T 12345 x=3.14;\n\n  ab\tcd  日本 'é' !!\r\nu٣²_v iPad e\u0301t"
# llama.cpp's name of a rule -> the words that it cuts the probe into, with | between them
RULES = {
    "gpt-2": "I|'ll| DON|'|T| 12345| x|=|3|.|14|;|\n\n | ab|\t|cd| | 日本| '|é|'| !!|"
    "\r|\n|u|٣²|_|v| iPad| e|\u0301|t",
    "smollm": "I|'ll| DON|'|T| |1|2|3|4|5| x|=|3|.|1|4|;|\n\n | ab|\t|cd| | 日本| '|é|'| !!|"
    "\r|\n|u|٣|²|_|v| iPad| e|\u0301|t",
    "llama-bpe": "I|'ll| DON|'T| |123|45| x|=|3|.|14|;\n\n| | ab|\tcd| | 日本| '|é|'| !!\r\n"
    "|u|٣²|_v| iPad| e|\u0301t",
    "qwen2": "I|'ll| DON|'T| |1|2|3|4|5| x|=|3|.|1|4|;\n\n| | ab|\tcd| | 日本| '|é|'| !!\r\n"
    "|u|٣|²|_v| iPad| e|\u0301t",
}
KNOWN_RULES = tuple(dict.fromkeys((*RULES, *GGUF_PRE_TOKENIZER_SPLITS)))  # names that a file may have
# rules with which llama.cpp takes each word that is a token as it is, whatever the merges, and begins a text
# with a token where the file does not say whether to
RULES_OF_WHOLE_WORDS = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    *("jina-v5-nano", "tekken"),
)
KIND_KEY = "tokenizer.ggml.model"
RULE_KEY = "tokenizer.ggml.pre"
BYTE_LEVEL = "gpt2"  # llama.cpp's names of the two kinds
SENTENCEPIECE = "llama"
SPECIAL = ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")  # fields of a tokenizer
# tokens that llama.cpp looks for in a model that is called phi3
TOKENS_OF_PHI3 = {"<unk>", "<s>", "</s>", "<|endoftext|>"}
SPACE = "\u2581"  # sentencepiece's character for a space


def tokenizer_metadata(tokenizer: Any, size: int) -> dict[str, Any]:
    """The metadata of a fast tokenizer of transformers: NAME -> value, for `add_NAME` of GGUFWriter.

    size: number of rows of the model's embedding.

    Raises InputError for a kind that llama.cpp does not have.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise InputError(
            expected="a tokenizer that has a tokenizer.json",
            got=type(tokenizer).__name__,
            hint="save it as a fast one",
        )
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    model = description["model"]
    if model["type"] != "BPE":
        raise InputError(
            expected="a BPE tokenizer, byte-level or sentencepiece",
            got=model["type"],
            hint="no GGUF file is made of it: use the folder itself",
        )
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    texts, types = _tokens(description, size, tokenizer.unk_token)
    fields: dict[str, Any]
    if model["byte_fallback"]:
        fields = {
            "tokenizer_model": SENTENCEPIECE,
            "tokenizer_pre": "default",
            "token_scores": _scores(texts, types, merges),
            "add_space_prefix": tokenizer.tokenize("x")[0].startswith(SPACE),
        }
    else:
        fields = {
            "tokenizer_model": BYTE_LEVEL,
            "tokenizer_pre": _rule(tokenizer.backend_tokenizer.pre_tokenizer),
            "token_merges": [f"{left} {right}" for left, right in merges],
            "add_space_prefix": False,
        }
    fields |= {"token_list": texts, "token_types": types}
    return fields | _special_tokens(tokenizer, size)


def has_whole_words(metadata: Mapping[str, Any]) -> bool:
    """Whether the rule of a file with these `metadata` is one of RULES_OF_WHOLE_WORDS."""
    return metadata.get(KIND_KEY) == BYTE_LEVEL and metadata.get(RULE_KEY) in RULES_OF_WHOLE_WORDS


def begins_texts(metadata: Mapping[str, Any]) -> bool:
    """Whether llama.cpp puts a token before each text, by the `metadata` of a file."""
    taken_for_granted = metadata.get(KIND_KEY) == SENTENCEPIECE or has_whole_words(metadata)
    return bool(metadata.get("tokenizer.ggml.add_bos_token", taken_for_granted))


def check_tokenizer_metadata(metadata: Mapping[str, Any], path: Path) -> None:
    """Check that transformers makes the tokenizer that llama.cpp makes of the `metadata` of a file.

    path: the file, for the message.

    Raises InputError, which names the key, where it does not.
    """
    needed = [KIND_KEY, "tokenizer.ggml.token_type"]
    known: dict[str, tuple[str, ...]] = {KIND_KEY: (BYTE_LEVEL, SENTENCEPIECE)}
    if metadata.get(KIND_KEY) == BYTE_LEVEL:  # llama.cpp has a rule of its own for a file without one
        needed.append(RULE_KEY)
        known[RULE_KEY] = KNOWN_RULES
    if begins_texts(metadata):
        needed.append("tokenizer.ggml.bos_token_id")
    if metadata.get("tokenizer.ggml.add_eos_token"):
        needed.append("tokenizer.ggml.eos_token_id")
    for key in needed:
        if key not in metadata:
            problem = f"no {key}"
        elif key in known and metadata[key] not in known[key]:
            problem = f"{key} = {str(metadata[key])[:40]!r}"
        else:
            continue
        raise InputError(
            expected="a tokenizer that transformers has as llama.cpp has it",
            got=f"{path} with {problem}",
            hint=SAFETENSORS_HINT,
        )


def name_for_llama_cpp(model_type: str, tokenizer: Any) -> str:
    """The name that a file gives its model: its type, and so the same whatever file or folder it is in.

    llama.cpp tells by "phi3" in this name whether special tokens swallow the spaces after them. A model
    without `TOKENS_OF_PHI3` it does not even load by that name.
    """
    swallows = any(token.rstrip for token in tokenizer.added_tokens_decoder.values())
    if swallows and tokenizer.get_vocab().keys() >= TOKENS_OF_PHI3:
        return "phi3"
    return model_type.replace("phi3", "phi")


def _tokens(description: dict[str, Any], size: int, unknown: str) -> tuple[list[str], list[TokenType]]:
    """Text and type of each of the model's `size` tokens; a row without a token is padding.

    Tokens that were added to the vocabulary, but not to the model, are left out: no text can use them.
    """
    vocabulary = description["model"]["vocab"]
    byte_fallback = description["model"]["byte_fallback"]
    texts = [f"[PAD{index}]" for index in range(size)]
    types = [TokenType.UNUSED] * size
    for text, index in vocabulary.items():
        is_byte = byte_fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        texts[index] = text
        types[index] = TokenType.BYTE if is_byte else TokenType.NORMAL
    for token in description["added_tokens"]:
        if token["id"] >= size:
            continue
        texts[token["id"]] = token["content"]
        if byte_fallback and token["content"] == unknown:
            types[token["id"]] = TokenType.UNKNOWN
        elif token["special"]:
            types[token["id"]] = TokenType.CONTROL
        else:
            types[token["id"]] = TokenType.USER_DEFINED
    return texts, types


def _scores(texts: list[str], types: list[TokenType], merges: list[list[str]]) -> list[float]:
    """Sentencepiece's scores of the tokens: an earlier merge has a higher score."""
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        scores.setdefault(left + right, -1.0 - rank)
    lowest = -1.0 - len(merges)  # score of single characters, which no merge makes
    return [
        scores.get(text, lowest) if kind == TokenType.NORMAL else 0.0
        for text, kind in zip(texts, types, strict=True)
    ]


def _rule(pre_tokenizer: Any) -> str:
    """llama.cpp's name of the rule by which `pre_tokenizer` cuts a text into words.

    Raises InputError for a rule that is not in RULES.
    """
    pieces = [] if pre_tokenizer is None else pre_tokenizer.pre_tokenize_str(PRE_TOKENIZER_PROBE)
    words = [PRE_TOKENIZER_PROBE[start:end] for _, (start, end) in pieces]
    # if the pieces join to the probe, no space was put before it, and it was cut into bytes
    joined = decoders.ByteLevel().decode([text for text, _ in pieces])
    for name, probe_words in RULES.items():
        if words == probe_words.split("|") and joined == PRE_TOKENIZER_PROBE:
            return name
    raise InputError(
        expected=f"a tokenizer that cuts words like one of {', '.join(RULES)}",
        got=f"one that cuts {PRE_TOKENIZER_PROBE[:16]!r} into {words[:6]}",
        hint="no GGUF file is made of it: use the folder itself",
    )


def _special_tokens(tokenizer: Any, size: int) -> dict[str, Any]:
    """Ids of the special tokens, whether a text begins and ends with them, and the template of a chat."""
    fields: dict[str, Any] = {}
    for name in SPECIAL:
        index = getattr(tokenizer, name)
        if index is not None and index < size:
            fields[name] = index
    ids = tokenizer("x")["input_ids"]  # the ids that a tokenizer makes count, not its many settings
    fields["add_bos_token"] = len(ids) > 1 and ids[0] == tokenizer.bos_token_id
    fields["add_eos_token"] = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        fields["chat_template"] = template
    return fields
