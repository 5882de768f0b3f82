"""llama.cpp, in this process: xllamacpp brings it as a ready wheel (`pip install 'comp-lib[gguf]'`).

Its Python interface is llama.cpp's server, so everything is a request, though none goes over the network. The server
wants to listen all the same: it gets a socket in a private folder, which is gone as soon as it has started.

One of the requests has no name of its own: how likely is a given text? A token that `logit_bias` forces is reported
with the log-probability that the model itself gave it, before the bias; so each token of a text is forced after those
before it, which the server keeps in its cache.
"""

from __future__ import annotations

import os
import queue
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, Keys
from torch import Tensor

from ..errors import InputError, check_package
from ..models.gguf_files import open_gguf
from ..report import Progress, no_progress

FORCED = 1e6  # added to a logit: more than any other can make up for
USUAL_CONTEXT = 2048  # tokens of a talk
LONGEST_DOOR = 100  # bytes; the name of a socket has at most 108 on Linux, 104 on macOS
EVERY = 1 << 20  # tokens whose probability is asked for: more than any model has


def start(file: str | Path, context: int | None = 0, threads: int = 0, cache: str = "f16") -> Any:
    """A running llama.cpp with the GGUF file `file`; it ends when the object is deleted.

    `context` is its length in tokens (0: the model's; None: USUAL_CONTEXT where the model takes so many), `threads` the
    number of cores that compute (0: llama.cpp's choice), `cache` the type of keys and values in memory, "f16" or "f32".
    Raises InputError: no xllamacpp, no such file, not a GGUF file, truncated, not one that llama.cpp runs, or a context
    that is longer than the model's.
    """
    check_installed()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(Path(file).expanduser())
    params.n_ctx = _context(open_gguf(file), context)
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = 0
    params.ui = False
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type[f"GGML_TYPE_{cache.upper()}"]
    with _nobodys_door(params):
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise InputError(f"expected a GGUF file that llama.cpp runs, got {file}: {error}") from error
    # a server that is deleted before its own thread runs waits for that thread forever: an answer shows that it runs
    _checked(server.handle_completions({"prompt": [0], "n_predict": 0}))
    return server


@contextmanager
def _nobodys_door(params: Any) -> Iterator[None]:
    """Where the server listens: a socket for this user alone, which nobody finds after the block.

    Where the system has no such sockets, or only short names for them: a port on loopback. A key that nobody is told
    keeps it shut.
    """
    params.api_keys = [secrets.token_urlsafe(32)]
    with tempfile.TemporaryDirectory(prefix="comp-lib-") as private:  # of mode 0700
        door = str(Path(private, "llama.sock"))
        if hasattr(socket, "AF_UNIX") and len(os.fsencode(door)) < LONGEST_DOOR:
            if hasattr(params, "hostnames"):
                params.hostnames = [door]
            else:  # as older releases call it
                params.hostname = door
        yield


def _context(reader: GGUFReader, asked: int | None) -> int:
    """The context to run with. Raises InputError when the model in the file takes no such."""
    architecture = reader.get_field(Keys.General.ARCHITECTURE)
    field = architecture and reader.get_field(Keys.LLM.CONTEXT_LENGTH.format(arch=architecture.contents()))
    longest = int(field.contents()) if field else None
    if asked is None:
        return min(USUAL_CONTEXT, longest or USUAL_CONTEXT)
    if longest is not None and asked > longest:
        got = f"{asked:,}: ask for less"
        raise InputError(f"expected a context of at most {longest:,} tokens, which is what the model takes, got {got}")
    return asked


def check_installed() -> None:
    """Raises InputError unless xllamacpp is there."""
    check_package("xllamacpp", "xllamacpp, which runs GGUF files", "pip install 'comp-lib[gguf]'")


def losses(server: Any, ids: Tensor, progress: Progress = no_progress) -> Tensor:
    """Negative log-likelihood, in nats, of each token of `ids` (S, L) but the first, given those before: (S, L - 1)."""
    values = torch.empty(len(ids), ids.shape[1] - 1)
    for row, sequence in enumerate(ids.tolist()):
        for end in range(1, len(sequence)):
            values[row, end - 1] = -_log_probability(server, sequence[:end], sequence[end], sequence)
        progress("llama.cpp", row + 1, len(ids))
    return values


def _log_probability(server: Any, before: list[int], token: int, others: list[int]) -> float:
    reply = _force(server, before, token, 1)
    if reply is not None:
        return float(reply["logprob"])
    for other in others:  # the distribution does not depend on what is forced, but a whole one takes long to write out
        reply = _force(server, before, other, EVERY)
        if reply is not None:
            return next(float(entry["logprob"]) for entry in reply["top_logprobs"] if entry["id"] == token)
    raise RuntimeError(f"expected a token among {others[:5]} ... that ends a character, got none")


def _force(server: Any, before: list[int], token: int, listed: int) -> dict[str, Any] | None:
    """What the server tells of `token` after `before`: nothing if it ends within a character, which waits for more."""
    request = {"prompt": before, "n_predict": 1, "n_probs": listed, "temperature": 0, "logit_bias": [[token, FORCED]]}
    logprobs = _checked(server.handle_completions(request))["choices"][0]["logprobs"]
    if logprobs is None:
        return None
    reply: dict[str, Any] = logprobs["content"][0]
    if reply["id"] != token:
        raise RuntimeError(f"expected llama.cpp to say the forced token {token}, got {reply['id']}")
    return reply


def answer(server: Any, messages: list[dict[str, str]], tokens: int, say: Callable[[str], None]) -> str:
    """The model's next message after `messages` ({"role", "content"}), at most `tokens` tokens, greedy.

    `say` gets each part of it as it comes. Raises InputError for what the server refuses, such as a full context.
    """
    parts: list[str] = []
    request = {"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
    for event in _events(server, request):
        for choice in _checked(event).get("choices", ()):
            if text := choice["delta"].get("content"):
                parts.append(text)
                say(text)
    return "".join(parts)


def _events(server: Any, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answer to a streamed request, piece by piece; it stops where the reader stops, or Ctrl-C is pressed.

    It comes in a thread: an exception in the function that llama.cpp calls, as Ctrl-C raises one, would get lost.
    """
    chunks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()

    def receive(chunk: Any) -> bool:
        chunks.put(chunk)
        return stopped.is_set()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.handle_chat_completions, request, receive)
        asked.add_done_callback(lambda _: chunks.put(None))
        try:
            for chunk in iter(chunks.get, None):
                yield from chunk if isinstance(chunk, list) else [chunk]
        finally:
            stopped.set()
        asked.result()


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply:
        raise InputError(f"expected a request that llama.cpp can meet, got: {reply['error'].get('message', reply)}")
    return reply
