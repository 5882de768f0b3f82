"""Calibration text that the model writes itself: no data needed.

A language model sampled at temperature 1 draws from the very distribution that it was trained to imitate,

    x_1 = start token,    x_{t+1} ~ p(. | x_1 ... x_t),

so its samples are a stand-in for its training data, at the price of its own errors.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..families.protocol import Model
from ..report import Progress, no_progress

SAMPLE_BATCH = 16  # the keys and values of so many sequences are in memory at once


@torch.no_grad()  # not inference mode: the ids are an ordinary tensor, good for training too
def sample_from_model(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    sequences: int,
    length: int,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Tensor:
    """`sequences` texts of `length` tokens written by the model itself, (S, L), on the CPU.

    Plain ancestral sampling: temperature 1, no truncation of the distribution, and no end of text, so that a sample
    runs on into the next document as training data does. The first token is the tokenizer's start token, else its
    end token, else a random one. The global random state is neither read nor changed.
    """
    check_sizes(sequences, length)
    # drawing on the CPU gives one seed one text, whatever device the model is on
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    # transformers renamed this argument within the range that we support, and ignores the name that it does not know
    cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    samples = torch.empty(sequences, length, dtype=torch.long)
    done = 0
    for batch in samples.split(SAMPLE_BATCH):  # (B, L) each: a part of `samples`, not a copy
        batch[:, :1] = torch.randint(model.config.vocab_size, (len(batch), 1), generator=generator)
        if start is not None:
            batch[:, 0] = start
        cache = None
        for position in range(1, length):
            token = batch[:, position - 1 : position].to(device)
            output = model(input_ids=token, use_cache=True, **{cache_name: cache})
            cache = output[cache_name]
            probabilities = output.logits[:, -1].float().softmax(-1).cpu()  # (B, V)
            batch[:, position] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            progress("sampling text", done + len(batch) * (position + 1), samples.numel())
        done += batch.numel()
    return samples


def check_sizes(sequences: int, length: int) -> None:
    """Raises InputError unless there is something to predict."""
    if sequences < 1 or length < 2:
        raise InputError(f"expected at least 1 sequence of at least 2 tokens, got {sequences} x {length}; raise them")
