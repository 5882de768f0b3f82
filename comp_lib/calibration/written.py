"""Text that the model writes itself: a stand-in for its training data, which nobody has to hand over.

Sampled at temperature 1, a model draws from the very distribution that it was trained to imitate,

    x_1 ... x_k given,    x_{t+1} ~ p(. | x_1 ... x_t),

at the price of its own errors. What comes first decides what kind of text follows; there are four WAYS:

    self             the start token alone: whatever the model writes most
    self:openings    first words of many kinds of text: code, tables, letters, encyclopedias
    self:requests    somebody asks, in the model's own chat template where it has one, and the model answers
    self:random      a token drawn from the whole vocabulary: the corners that nothing else reaches

Openings and requests are in data/beginnings.json. What was written is kept on disk under the model's fingerprint and
the seed, so that a second run waits for nothing.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError, refusing
from ..families.frame import check_ids
from ..families.protocol import Model
from ..progress import Progress, no_progress
from ..system.cache import remembered
from ..system.files import hash_of_model, hash_of_value
from ..system.machine import cache_folder
from .text import DATA_FOLDERS, encode, opening, start_token

WAYS = ("self", "self:openings", "self:requests", "self:random")
SAMPLING = 3  # counts up when the writing changes, so that what an older version wrote is not read
SAMPLE_BATCH = 64  # the keys and values of at most so many sequences are in memory at once
_FILE = next(path for folder in DATA_FOLDERS if (path := folder / "beginnings.json").is_file())
BEGINNINGS: dict[str, list[str]] = {
    f"self:{way}": texts for way, texts in json.loads(_FILE.read_text("utf-8")).items()
}


def written(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    ways: Sequence[str],
    length: int,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Tensor:
    """A text of `length` tokens for each of `ways`, one of WAYS each, (S, L), from the cache where it is there.

    Raises InputError when the cache cannot be written.
    """
    starts = prefixes(tokenizer, ways, model.config.vocab_size, length, seed)
    check_ids(torch.cat(starts), model.config.vocab_size)
    key = [SAMPLING, hash_of_model(model), [start.tolist() for start in starts], length, seed]
    path = cache_folder() / "written" / f"{hash_of_value(key)[:24]}.safetensors"
    ids: Tensor = remembered(path, lambda: sample(model, starts, length, seed, progress))
    return ids


def prefixes(
    tokenizer: Any, ways: Sequence[str], vocabulary: int, length: int, seed: int = 0
) -> list[Tensor]:
    """What each text begins with, (1 to length - 1,) token ids, drawn with `seed`: one for each of `ways`."""
    generator = torch.Generator().manual_seed(seed)
    known = start_token(tokenizer)
    places = {way: torch.randperm(len(texts), generator=generator) for way, texts in BEGINNINGS.items()}
    starts, taken = [], dict.fromkeys(BEGINNINGS, 0)
    for way in ways:
        anything = torch.randint(vocabulary, (1,), generator=generator)
        first = anything if known is None else torch.tensor([known])
        if way in BEGINNINGS:
            text = BEGINNINGS[way][int(places[way][taken[way] % len(places[way])])]
            taken[way] += 1
            ids = (
                _asked(tokenizer, text)
                if way == "self:requests"
                else torch.cat([first, encode(tokenizer, text)])
            )
            starts.append((ids if len(ids) else first)[: length - 1])
        else:
            starts.append(
                torch.cat([opening(tokenizer), anything])[: length - 1] if way == "self:random" else first
            )
    return starts


def _asked(tokenizer: Any, request: str) -> Tensor:
    """The request as the model was taught to read one, up to where its answer begins: (k,)."""
    if getattr(tokenizer, "chat_template", None) is None:
        return torch.cat([opening(tokenizer), encode(tokenizer, f"Question: {request}\nAnswer:")])
    turns = [{"role": "user", "content": request}]
    with refusing(
        "a chat template that works", "that of the tokenizer", "mend it, or take a text without `requests`"
    ):
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return encode(tokenizer, text)


@torch.no_grad()  # not inference mode: the ids are an ordinary tensor, good for training too
def sample(
    model: Model, starts: Sequence[Tensor], length: int, seed: int, progress: Progress = no_progress
) -> Tensor:
    """Texts of `length` tokens that go on from `starts`, (S, L), on the CPU.

    Plain ancestral sampling: temperature 1, no truncation of the distribution, and no end of text, so that a sample
    runs on into the next document as training data does. The global random state is neither read nor changed.
    """
    # drawing on the CPU gives one seed one text, whatever device the model is on
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    # transformers renamed this argument within the range that we support, and ignores the name that it does not know
    cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    samples = torch.empty(len(starts), length, dtype=torch.long)
    given = torch.zeros(len(starts), length, dtype=torch.bool)
    for row, start in enumerate(starts):
        samples[row, : len(start)], given[row, : len(start)] = start, True
    done, size = 0, -(-len(starts) // -(-len(starts) // SAMPLE_BATCH))  # batches as equal as can be
    for batch, known in zip(samples.split(size), given.split(size), strict=True):  # parts, not copies
        cache = None
        for position in range(1, length):
            token = batch[:, position - 1 : position].to(device)
            output = model(input_ids=token, use_cache=True, **{cache_name: cache})
            cache = output[cache_name]
            up_to = output.logits[:, -1].float().softmax(-1).cpu().cumsum(-1, dtype=torch.float64)  # (B, V)
            if not up_to[:, -1].isfinite().all():
                got = "NaN or infinity while it writes: look at the model, or try dtype float32"
                raise InputError(f"expected finite answers of the model, got {got}")
            chance = torch.rand(len(batch), 1, generator=generator, dtype=torch.float64) * up_to[:, -1:]
            drawn = torch.searchsorted(up_to, chance, right=True)[:, 0].clamp_max(up_to.shape[1] - 1)
            batch[:, position] = torch.where(known[:, position], batch[:, position], drawn)
            progress("writing text", done + len(batch) * (position + 1), samples.numel())
        done += batch.numel()
    return samples
