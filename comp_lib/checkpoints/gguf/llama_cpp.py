"""llama.cpp, in this process: xllamacpp brings it as a ready wheel (`pip install 'comp-lib[gguf]'`).

Its Python interface is llama.cpp's server, so every call is a request, though none goes over the network. The
server listens on a port of loopback all the same. A secret key keeps everybody else out.

llama.cpp has no request for the likelihood of a given text. But if `logit_bias` forces a token, the reply has
the log-probability that the model itself gave this token, before the bias. So each token of a text is forced
after those before it, which the server keeps in its cache.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...utils.arguments import check_package
from ...utils.errors import InputError
from .read import GgufFile

FORCING_BIAS = 1e6  # a bias that no difference between logits makes up for
ALL_TOKENS = 1 << 20  # a number of tokens that no vocabulary exceeds


def start(file: str | Path, context: int = 0, threads: int = 0, cache: str = "f16") -> Any:
    """Start llama.cpp with the GGUF file `file`; it ends when the object that is returned is deleted.

    Args:
        file: path of the GGUF file.
        context: length of the context in tokens; 0: the model's.
        threads: number of cores that compute; 0: llama.cpp's choice.
        cache: type of keys and values in memory, "f16" or "f32".

    Raises InputError for a missing xllamacpp, for a missing file, and for a file that is no GGUF file, is
    truncated, or is none that llama.cpp runs.
    """
    check_package("xllamacpp", "gguf")
    import xllamacpp

    GgufFile(file)  # refuses another kind of file
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(file).expanduser())
    params.api_keys = [secrets.token_urlsafe(32)]
    params.n_ctx = context
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = 0
    params.ui = False
    if threads:
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
    cache_type = xllamacpp.ggml_type[f"GGML_TYPE_{cache.upper()}"]
    params.cache_type_k = cache_type
    params.cache_type_v = cache_type
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise InputError(
            expected="a GGUF file that llama.cpp runs", got=f"{file}: {error}", hint="export the model again"
        ) from error
    # A server that is deleted before its own thread runs waits for that thread forever. A reply shows that
    # the thread runs.
    checked_reply(server.handle_completions({"prompt": [0], "n_predict": 0}))
    return server


def losses(server: Any, ids: Tensor) -> Tensor:
    """Negative log-likelihood, in nats, of each token of `ids` (S, L) after those before it: (S, L - 1)."""
    values = torch.empty(len(ids), ids.shape[1] - 1)
    for row, sequence in enumerate(ids.tolist()):
        for end in range(1, len(sequence)):
            values[row, end - 1] = -_log_probability(server, sequence[:end], sequence[end], sequence)
    return values


def _log_probability(server: Any, context: list[int], token: int, candidates: list[int]) -> float:
    """Log-probability of `token` after `context`.

    candidates: tokens that are forced where `token` cannot be; all probabilities are then asked for.
    """
    reply = _force(server, context, token, 1)
    if reply is not None:
        return float(reply["logprob"])
    # the probabilities do not depend on the forced token, but a list of all of them takes long
    for candidate in candidates:
        reply = _force(server, context, candidate, ALL_TOKENS)
        if reply is not None:
            logprobs = {entry["id"]: entry["logprob"] for entry in reply["top_logprobs"]}
            return float(logprobs[token])
    raise RuntimeError(f"expected a token among {candidates[:5]} ... that ends a character, got none")


def _force(server: Any, context: list[int], token: int, listed: int) -> dict[str, Any] | None:
    """The server's log-probabilities after `context`: of `token`, and of the `listed` likeliest tokens.

    None if `token` ends within a character: the server waits for the rest of the character.
    """
    request = {
        "prompt": context,
        "n_predict": 1,
        "n_probs": listed,
        "temperature": 0,
        "logit_bias": [[token, FORCING_BIAS]],
    }
    logprobs = checked_reply(server.handle_completions(request))["choices"][0]["logprobs"]
    if logprobs is None:
        return None
    reply: dict[str, Any] = logprobs["content"][0]
    if reply["id"] != token:
        raise RuntimeError(f"expected llama.cpp to say the forced token {token}, got {reply['id']}")
    return reply


def checked_reply(reply: dict[str, Any]) -> dict[str, Any]:
    """Return `reply`.

    Raises InputError where llama.cpp says in it that it cannot answer.
    """
    if "error" in reply:
        message = reply["error"].get("message", reply)
        hint = "shorten the text, or write the file anew with comp-lib export"
        raise InputError(expected="a request that llama.cpp can meet", got=message, hint=hint)
    return reply
