"""Tokenizers in GGUF: llama.cpp must cut every text into the same tokens as the tokenizer itself."""

from __future__ import annotations

import inspect
import json
import urllib.request

import gguf
import pytest
import torch
from conftest import DATA, TINY_CONFIG
from gguf_rewriting import rewrite
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2
from variants import build

from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.gguf import llama_cpp
from comp_lib.checkpoints.gguf.read import CONFIG_KEY, GgufFile
from comp_lib.checkpoints.gguf.tokenizer import KNOWN_RULES, RULES, SPACE
from comp_lib.checkpoints.load import load_model
from comp_lib.decoder.own_widths.meta_model import with_true_config
from comp_lib.decoder.surgery import shrink
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow

LLAMA3 = inspect.signature(TikTokenConverter).parameters["pattern"].default
PROSE = (DATA / "calibration.txt").read_text("utf-8").splitlines()[:100]
TEXTS = [
    *PROSE[:20],
    "I'll DON'T they'RE 1234567 3.14 x=2;\n\n\n  ab\t\tcd  \n",
    "Ünïcödé, 日本語, \u0928\u092e\u0938\u094d\u0924\u0947, e\u0301, ½ ² ٣, 🦙🦙 \u200b.",
    "<s>special</s> <not> <extra> _snake_case CamelCase\r\n\r\n",
    "<?/\n//n/a He'LL iPhoneX ABCdef 1234",
    " leading and trailing ",
]


def split(pattern):
    cutter = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([cutter, spelling])


def byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


CUTTERS = {
    "gpt-2": byte_level,
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
    "llama-bpe": lambda: split(LLAMA3),
    "qwen2": lambda: split(QWEN2),
}


def byte_level_bpe(cutter, bos: bool = False) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = cutter
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_CONFIG["vocab_size"] - 1,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator([*PROSE, "12345 123 " * 9999], trainer)
    core.add_tokens(["<extra>"])
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def sentencepiece(prefix: bool) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2 has it: a sign stands for a space, bytes stand for an unknown character."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    spell = [normalizers.Prepend(SPACE)] if prefix else []
    core.normalizer = normalizers.Sequence([*spell, normalizers.Replace(" ", SPACE)])
    reserved = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_CONFIG["vocab_size"], special_tokens=reserved, show_progress=False
    )
    core.train_from_iterator(PROSE, trainer)
    described = json.loads(core.to_str())
    # the bytes are ordinary entries of the vocabulary
    described["added_tokens"] = described["added_tokens"][:3]
    core = Tokenizer.from_str(json.dumps(described))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture
def export(tmp_path, tiny_llama):
    """The tiny model with a tokenizer of choice, as a GGUF file."""

    def write(tokenizer, **overrides):
        tiny_llama(**overrides).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return export_gguf(tmp_path / "model", tmp_path / "m.gguf")

    return write


KEY = "known to this test"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}


@pytest.fixture(autouse=True)
def open_door(monkeypatch):
    """Give the server a key that the test knows: only so can it ask llama.cpp for the tokens of a text."""
    monkeypatch.setattr(llama_cpp.secrets, "token_urlsafe", lambda size: KEY)


def llama_tokens(server, text: str) -> list[int]:
    body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
    request = urllib.request.Request(f"{server.listening_address}/tokenize", body, HEADERS)
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)["tokens"]


def assert_same_tokens(file, tokenizer) -> None:
    server = llama_cpp.start(file, 64, threads=1)
    for text in TEXTS:
        assert llama_tokens(server, text) == tokenizer(text)["input_ids"], text


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bos", [False, True])
def test_byte_level(export, rule, bos):
    tokenizer = byte_level_bpe(CUTTERS[rule](), bos)
    file = export(tokenizer)
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.pre"].contents() == rule
    assert fields["tokenizer.ggml.add_bos_token"].contents() is bos
    types = fields["tokenizer.ggml.token_type"].contents()
    assert types == [3, 3] + [1] * 509 + [4]  # control, normal, user-defined
    assert_same_tokens(file, tokenizer)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(export, own_cache, prefix):
    tokenizer = sentencepiece(prefix)
    file = export(tokenizer)
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.token_type"].contents()[:5] == [2, 3, 3, 6, 6]  # unknown, control, bytes
    assert_same_tokens(file, tokenizer)
    assert_same_tokens(file, load_model(file)[1])


def test_the_rule_survives_a_conversion_and_a_save(export, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    for rule in RULES:
        tokenizer = byte_level_bpe(CUTTERS[rule]())
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        model, loaded = load_model(export(tokenizer))
        model.save_pretrained(tmp_path / "again")
        loaded.save_pretrained(tmp_path / "again")
        fields = gguf.GGUFReader(export_gguf(tmp_path / "again", tmp_path / "n.gguf", overwrite=True)).fields
        assert fields["tokenizer.ggml.pre"].contents() == rule
        assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
        assert fields["tokenizer.ggml.eos_token_id"].contents() == 1
        (tmp_path / "m.gguf").unlink()


def test_rows_without_a_token_and_tokens_without_a_row(export):
    tokenizer = byte_level_bpe(byte_level())
    fields = gguf.GGUFReader(export(tokenizer, vocab_size=520)).fields
    assert fields["tokenizer.ggml.tokens"].contents()[512:] == [f"[PAD{index}]" for index in range(512, 520)]
    assert fields["tokenizer.ggml.token_type"].contents()[512:] == [5] * 8  # unused


def test_tokens_that_the_model_has_no_row_for_are_left_out(export):
    tokenizer = byte_level_bpe(byte_level())
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    file = export(tokenizer)
    assert gguf.GGUFReader(file).get_field("tokenizer.ggml.padding_token_id") is None
    assert llama_tokens(llama_cpp.start(file, 64, threads=1), "a b") == tokenizer("a b")["input_ids"]


def unigram():
    return Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -1.0) for letter in "abcdefgh x")], unk_id=0))


@pytest.mark.parametrize(
    ("tokenizer", "match"),
    [
        (
            lambda: PreTrainedTokenizerFast(tokenizer_object=unigram(), unk_token="<unk>"),
            "BPE tokenizer.*got Unigram",
        ),
        (
            lambda: byte_level_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)),
            "cuts words like one of gpt-2",
        ),
        (
            lambda: byte_level_bpe(split(r"\p{L}+|\p{N}+")),
            "cuts words like one of gpt-2, smollm, llama-bpe, qwen2",
        ),
    ],
)
def test_what_llama_cpp_has_not_is_refused(export, tokenizer, match):
    with pytest.raises(InputError, match=match):
        export(tokenizer())


def test_phi3_s_sentencepiece_comes_back_from_a_host(tmp_path, monkeypatch):
    """How a text is cut that begins with a space, transformers knows by the architecture, here another's."""
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    model = build("phi3")
    shrink(model.model.layers[0], "mlp", torch.arange(16))
    tokenizer = sentencepiece(prefix=True)
    with_true_config(model).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    file = export_gguf(tmp_path / "model", tmp_path / "m.gguf")
    assert gguf.GGUFReader(file).fields["general.architecture"].contents() == "deci"
    _, back = load_model(file)
    for text in (*TEXTS, " hi there", "  two"):
        assert back(text)["input_ids"] == tokenizer(text)["input_ids"], text


@pytest.mark.parametrize("swallows", [True, False])
def test_phi3_s_tokens_swallow_the_spaces_after_them(tmp_path, swallows):
    """llama.cpp tells it by the name of the model, which no name of a file or folder may change."""
    tokenizer = sentencepiece(prefix=True)
    added = [AddedToken(text, special=True, rstrip=swallows) for text in ("<|end|>", "<|user|>")]
    tokenizer.add_tokens([AddedToken("<|endoftext|>", special=True), *added])
    if swallows:
        tokenizer.add_tokens([AddedToken("</s>", special=True, rstrip=True)])
    build("phi3", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    file = export_gguf(tmp_path / "folder", tmp_path / ("small.gguf" if swallows else "phi3.gguf"))
    assert gguf.GGUFReader(file).fields["general.name"].contents() == ("phi3" if swallows else "phi")
    server = llama_cpp.start(file, 64, threads=1)
    for text in ("<|user|>\nhi there<|end|>\n  you", "a<|endoftext|> b"):
        assert llama_tokens(server, text) == tokenizer(text)["input_ids"], text


# --- files of other makers ----------------------------------------------------------------------------------


@pytest.fixture
def theirs(export, tmp_path):
    """A file as others write it: `theirs(tokenizer)(key=value)`, with keys of the tokenizer; None: no key."""

    def of(tokenizer):
        file = export(tokenizer)

        def write(**keys):
            changes = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
            return rewrite(file, tmp_path / "theirs.gguf", {CONFIG_KEY: None} | changes)

        return write

    return of


@pytest.mark.parametrize("rule", KNOWN_RULES)
def test_every_known_rule_is_read_as_llama_cpp_reads_it(theirs, rule):
    """With and without the key that says whether a text begins with a token; some words need no merges."""
    write = theirs(byte_level_bpe(byte_level()))
    merges = GgufFile(write()).metadata["tokenizer.ggml.merges"]
    for keys in ({}, {"add_bos_token": None, "merges": merges[: len(merges) // 2]}):
        file = write(pre=rule, **keys)
        assert_same_tokens(file, GgufFile(file).tokenizer())


def test_sentencepiece_has_no_rule_and_begins_each_text(theirs):
    write = theirs(sentencepiece(prefix=True))
    for keys in ({"pre": "nobody's"}, {"pre": None, "add_bos_token": None}, {"add_eos_token": True}):
        file = write(**keys)
        assert_same_tokens(file, GgufFile(file).tokenizer())


@pytest.mark.parametrize(
    ("make", "keys", "why"),
    [
        ("bytes", {"pre": "nobody's"}, 'tokenizer.ggml.pre = "nobody\'s"'),
        ("bytes", {"pre": "default"}, "tokenizer.ggml.pre = 'default'"),
        ("bytes", {"pre": None}, "no tokenizer.ggml.pre"),
        ("bytes", {"model": "t5"}, "tokenizer.ggml.model = 't5'"),
        ("bytes", {"model": None}, "no tokenizer.ggml.model"),
        ("bytes", {"token_type": None}, "no tokenizer.ggml.token_type"),
        ("bytes", {"add_bos_token": True, "bos_token_id": None}, "no tokenizer.ggml.bos_token_id"),
        ("bytes", {"pre": "tekken", "add_bos_token": None, "bos_token_id": None}, "no tokenizer.ggml.bos_"),
        ("bytes", {"add_eos_token": True, "eos_token_id": None}, "no tokenizer.ggml.eos_token_id"),
        ("signs", {"bos_token_id": None}, "no tokenizer.ggml.bos_token_id"),
        ("signs", {"add_bos_token": None, "bos_token_id": None}, "no tokenizer.ggml.bos_token_id"),
    ],
)
def test_what_llama_cpp_takes_for_granted_otherwise_is_refused(theirs, make, keys, why):
    """llama.cpp runs all of these but the first and two of no tokenizer, and cuts a text otherwise."""
    tokenizer = byte_level_bpe(byte_level()) if make == "bytes" else sentencepiece(prefix=True)
    with pytest.raises(InputError, match=f"as llama.cpp has it, got .*theirs.gguf with {why}") as refusal:
        load_model(theirs(tokenizer)(**keys))
    assert "\n" not in str(refusal.value)


def test_a_token_that_is_never_added_need_not_be_there(theirs):
    file = theirs(byte_level_bpe(byte_level()))(bos_token_id=None, add_bos_token=None)
    assert_same_tokens(file, GgufFile(file).tokenizer())
