"""Text that the model writes itself: a stand-in for its training data, which nobody has to hand over.

Sampled at temperature 1, a model draws from the very distribution that it was trained to imitate,

    x_1 ... x_k given,    x_{t+1} ~ p(. | x_1 ... x_t),

at the price of its own errors. The first tokens decide what kind of text follows; there are four WRITERS:

    self             the start token alone: whatever the model writes most
    self:openings    first words of many kinds of text: code, tables, letters, encyclopedias
    self:requests    somebody asks, in the model's own chat template where it has one, and the model answers
    self:random      a token drawn from the whole vocabulary: the corners that nothing else reaches

Openings and requests are in data/beginnings.json. What the model wrote is kept on disk under its hash and the
seed, so that a second run waits for nothing. What the included model writes for the presets with seed 0 is in
data/written, so that its first run waits for nothing either.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..decoder.run import evaluation_mode
from ..decoder.tokens import check_below_vocabulary
from ..decoder.types import Model
from ..utils.cache import load_or_make
from ..utils.errors import InputError, refusing
from ..utils.hashes import hash_of_model, hash_of_value
from ..utils.machine import cache_folder
from ..utils.progress import Progress, no_progress
from .texts import DATA_FOLDERS, encode, find_shipped, opening_tokens, start_token

# the names of the writers, each of which is a way to begin a text that the model goes on with
WRITERS = ("self", "self:openings", "self:requests", "self:random")
# The version of the code that writes. Whoever changes what it writes adds 1, so that texts of an older
# version in the cache or in data/written are not read, and runs data/written/make_written.py.
SAMPLING_VERSION = 3
SAMPLE_BATCH = 64  # sequences whose keys and values are in memory at once, at most


def load_beginnings() -> dict[str, list[str]]:
    """The openings and the requests that ship, by their names in WRITERS.

    Raises InputError where the installation has no such file.
    """
    path = find_shipped("beginnings.json", DATA_FOLDERS)
    content = json.loads(path.read_text("utf-8"))
    return {f"self:{kind}": texts for kind, texts in content.items()}


def write_texts(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    writers: Sequence[str],
    length: int,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Tensor:
    """A text of `length` tokens for each of `writers`: token ids (S, L).

    They are sampled only where neither data/written nor the cache has them.

    writers: names of WRITERS, in any number.

    Raises InputError when the cache cannot be written.
    """
    prefixes = draw_prefixes(tokenizer, writers, model.config.vocab_size, length, seed)
    check_below_vocabulary(torch.cat(prefixes), model.config.vocab_size)
    model_hash = hash_of_model(model)
    key = key_of_text(model_hash, prefixes, length, seed)
    shipped = load_shipped_texts(model_hash)
    if key in shipped:
        return shipped[key]
    path = cache_folder() / "written" / f"{key}.safetensors"
    ids: Tensor = load_or_make(path, lambda: sample(model, prefixes, length, seed, progress))
    return ids


def key_of_text(model_hash: str, prefixes: Sequence[Tensor], length: int, seed: int) -> str:
    """24 hex digits for all that decides what a model writes: the name of the text that it wrote."""
    beginnings = [prefix.tolist() for prefix in prefixes]
    return hash_of_value([SAMPLING_VERSION, model_hash, beginnings, length, seed])[:24]


def load_shipped_texts(model_hash: str) -> dict[str, Tensor]:
    """The texts (S, L) in data/written that the model of this hash wrote, by their keys; none: no texts."""
    for folder in DATA_FOLDERS:
        path = folder / "written" / f"{model_hash}.json"
        if path.is_file():
            content = json.loads(path.read_text("utf-8"))
            return {key: torch.tensor(text["ids"]) for key, text in content["texts"].items()}
    return {}


def draw_prefixes(
    tokenizer: Any, writers: Sequence[str], vocabulary: int, length: int, seed: int = 0
) -> list[Tensor]:
    """Draw the token ids with which each text begins, (1 to length - 1,): one tensor for each writer."""
    generator = torch.Generator().manual_seed(seed)
    start = start_token(tokenizer)
    beginnings = load_beginnings()
    queues = {
        writer: itertools.cycle(torch.randperm(len(texts), generator=generator).tolist())
        for writer, texts in beginnings.items()
    }
    prefixes = []
    for writer in writers:
        random_token = torch.randint(vocabulary, (1,), generator=generator)
        first = random_token if start is None else torch.tensor([start])
        if writer == "self":
            prefix = first
        elif writer == "self:random":
            prefix = torch.cat([opening_tokens(tokenizer), random_token])
        else:
            text = beginnings[writer][next(queues[writer])]
            if writer == "self:requests":
                prefix = _encode_request(tokenizer, text)
            else:
                prefix = torch.cat([first, encode(tokenizer, text)])
        if len(prefix) == 0:  # the chat template printed nothing
            prefix = first
        prefixes.append(prefix[: length - 1])
    return prefixes


def _encode_request(tokenizer: Any, request: str) -> Tensor:
    """The request as the model was taught to read one, up to the beginning of its answer: (k,)."""
    if getattr(tokenizer, "chat_template", None) is None:
        return torch.cat([opening_tokens(tokenizer), encode(tokenizer, f"Question: {request}\nAnswer:")])
    messages = [{"role": "user", "content": request}]
    hint = "correct it, or take a text without `requests`"
    with refusing("a chat template that works", "that of the tokenizer", hint):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return encode(tokenizer, text)


@torch.no_grad()  # not inference mode: the ids are an ordinary tensor, good for training too
def sample(
    model: Model, prefixes: Sequence[Tensor], length: int, seed: int, progress: Progress = no_progress
) -> Tensor:
    """Sample texts of `length` tokens that go on from `prefixes`: (S, L), on the CPU.

    This is plain ancestral sampling, at temperature 1, from the full distribution. A sample does not stop at
    an end of text but runs on into the next document, as training data does. The global random state is
    neither read nor changed.
    """
    # transformers renamed this argument within the range that we support, and ignores an unknown name
    is_renamed = "cache" in inspect.signature(model.forward).parameters
    cache_name = "cache" if is_renamed else "past_key_values"
    device = next(model.parameters()).device
    # drawing on the CPU gives one seed one text, whatever device the model is on
    generator = torch.Generator().manual_seed(seed)
    samples = torch.empty(len(prefixes), length, dtype=torch.long)
    is_given = torch.zeros(len(prefixes), length, dtype=torch.bool)
    for row, prefix in enumerate(prefixes):
        samples[row, : len(prefix)] = prefix
        is_given[row, : len(prefix)] = True
    batches = -(-len(prefixes) // SAMPLE_BATCH)
    batch_size = -(-len(prefixes) // batches)  # the batches are as equal as can be
    finished_tokens = 0
    views = zip(samples.split(batch_size), is_given.split(batch_size), strict=True)
    with evaluation_mode(model):
        for batch, given in views:  # to write to `batch` is to write to `samples`
            cache = None
            for position in range(1, length):
                token = batch[:, position - 1 : position].to(device)
                output = model(input_ids=token, use_cache=True, **{cache_name: cache})
                cache = output[cache_name]
                probabilities = output.logits[:, -1].float().softmax(-1).cpu()  # (B, V)
                drawn = _draw(probabilities, generator)
                batch[:, position] = torch.where(given[:, position], batch[:, position], drawn)
                progress("writing text", finished_tokens + len(batch) * (position + 1), samples.numel())
            finished_tokens += batch.numel()
    return samples


def _draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a token from each row of probabilities (B, V), by inverting their running sum: (B,).

    Raises InputError for probabilities that are not finite.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        raise InputError(
            expected="finite answers of the model",
            got="NaN or infinity while it writes",
            hint="look at the model, or try dtype float32",
        )
    threshold = torch.rand(len(cumulative), 1, generator=generator, dtype=torch.float64) * total
    drawn = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return drawn.clamp_max(cumulative.shape[1] - 1)
