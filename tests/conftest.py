"""What several test files need: tiny random models, a tokenizer made on the spot, and the real model."""

from __future__ import annotations

import copy
import gc
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the Hub's library reads it: no test may wait for a network

import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import forks
import pytest
import torch
from explore_page import javascript  # noqa: F401  a fixture
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))  # for the package `course`
sys.modules.setdefault("rfc3987_syntax", None)  # slow to import; nbformat's jsonschema does without
TINY_CONFIG = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


# Files with long tests, the longest first: two processes that share the files end at about the same time.
LONG_FILES = (
    "test_real.py",
    "project/test_kit.py",
    "project/test_contributing.py",
    "project/test_browser.py",
    "reports/comparison/",
    "lessons/",
    "course/",
    "checkpoints/",
    "evaluation/",
    "cli/",
    "pruning/",
    "project/",
    "hostile/",
    "reports/",
)
TEST_FILES = [
    path.relative_to(Path(__file__).parent).as_posix() for path in Path(__file__).parent.rglob("*.py")
]
for beginning in LONG_FILES:
    assert any(path.startswith(beginning) for path in TEST_FILES), f"no test file begins with {beginning}"


def path_in_tests(path):
    """The path of a test file from this folder on, as LONG_FILES has it."""
    return path.relative_to(Path(__file__).parent).as_posix()


def pytest_collection_modifyitems(items):
    """Long files come first. A test that starts a Python has to be marked as slow."""

    def rank(item):
        path = path_in_tests(item.path)
        ranks = (rank for rank, start in enumerate(LONG_FILES) if path.startswith(start))
        return next(ranks, len(LONG_FILES))

    items.sort(key=rank)
    for item in items:
        starts_a_python = not {"python", "kernels"}.isdisjoint(item.fixturenames)
        if starts_a_python and item.get_closest_marker("slow") is None:
            raise pytest.UsageError(f"{item.nodeid} starts a Python, and is not marked: @pytest.mark.slow")


def pytest_collection_finish(session):
    """What was imported stays in memory, so the garbage collector need not walk it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Without fsync a killed process still leaves what it wrote; a power cut does not, but none is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Set weights that are not trivial: norms away from 1, biases not 0, predictions far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            if "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[1] ** 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_llama():
    """Makes tiny random Llamas: `tiny_llama(num_key_value_heads=1)`. The same call gives the same weights."""

    def build(seed: int = 0, **overrides) -> LlamaForCausalLM:
        config = LlamaConfig(**TINY_CONFIG | overrides, attn_implementation="sdpa")
        return randomise(LlamaForCausalLM(config), seed)

    return build


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with 512 tokens, trained here. Like Llama's it puts <s> before a text by default."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_CONFIG["vocab_size"],
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((DATA / "calibration.txt").read_text("utf-8").splitlines()[:100], trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=TINY_CONFIG["max_position_embeddings"],
    )


@pytest.fixture
def bare_tokenizer(tokenizer):
    """A tokenizer that puts nothing before a text, and so leaves start tokens to the library."""
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return bare


@pytest.fixture
def short_file(tmp_path):
    """A text much shorter than what ships, of which it is the beginning."""
    path = tmp_path / "short.txt"
    path.write_text((DATA / "calibration.txt").read_text("utf-8")[:3000], "utf-8")
    return path


@pytest.fixture
def small_disk():
    """Within `small_disk(limit)` no file grows beyond that many bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(limit: int):
        old_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old_limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Nothing is found in the cache but what the test itself has put there."""
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))


@pytest.fixture(scope="session")
def ids():
    """Tokens (6, 24) of a tiny model."""
    return torch.randint(512, (6, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def real_model():
    """SmolLM2-135M and its tokenizer, shared by all tests: none may change the model in place."""
    from tools import config_and_hash

    from comp_lib.checkpoints.load import load_model
    from comp_lib.checkpoints.wheels import INCLUDED_MODEL

    model, tokenizer = load_model(INCLUDED_MODEL)
    before = config_and_hash(model)
    yield model, tokenizer
    assert config_and_hash(model) == before, "a test changed the model that all tests share"


@pytest.fixture(scope="session")
def python():
    """The first words of a command that runs Python with torch and the like imported already: see `forks`."""
    with forks.python() as command:
        yield command


@pytest.fixture(scope="module")
def kernels(python, tmp_path_factory):
    """Jupyter starts its kernels by `python`."""
    folder = tmp_path_factory.mktemp("jupyter")
    kernel_folder = folder / "kernels" / "python3"
    kernel_folder.mkdir(parents=True)
    command = [*python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    description = {"argv": command, "display_name": "Python 3 (ipykernel)", "language": "python"}
    (kernel_folder / "kernel.json").write_text(json.dumps(description), "utf-8")
    folders = filter(None, [str(folder), os.environ.get("JUPYTER_PATH")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", os.pathsep.join(folders))
        yield


@pytest.fixture(scope="module")
def parent(tmp_path_factory, tiny_llama, tokenizer):
    """A folder with a tiny Llama, as a user would have one."""
    folder = tmp_path_factory.mktemp("models") / "parent"
    tiny_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
