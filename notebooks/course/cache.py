"""Heavy statistics, computed once: a cache on disk that notebooks, widgets and kernels share.

`@cached` goes on a function that returns tensors and numbers. Each result is one safetensors file. Its name
holds the SHA-256 of all that decides the result: the function, its arguments (models and tensors by content,
not by name), and the code behind it, which is that of `comp_lib` and of this folder. So a changed formula
never reads numbers that its former version stored. Writing is atomic: two kernels that compute the same entry
at once do not disturb each other. A damaged file is computed anew.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from torch import Tensor, nn

from comp_lib.utils.cache import load_or_make
from comp_lib.utils.hashes import hash_of_code, hash_of_model, hash_of_tensor, hash_of_value
from comp_lib.utils.machine import cache_folder

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Tensors = dict[str, Tensor]


def cached(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wraps `function` so that it is computed once for each set of arguments, without gradients.

    The arguments may be tensors, models, dataclasses, and values that JSON can hold. The result may be values
    that JSON can hold, with tensors anywhere in it. Tensors come back on the CPU, and tuples come back as
    lists. A call raises InputError when the entry cannot be written, and TypeError for an argument of another
    kind.
    """

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        key = _key(function, inspect.signature(function).bind(*args, **kwargs))
        path = cache_folder() / "statistics" / f"{function.__name__}-{hash_of_value(key)[:24]}.safetensors"
        result: Result = load_or_make(path, lambda: function(*args, **kwargs))
        return result

    return wrapper


def _key(function: Callable[..., object], call: inspect.BoundArguments) -> str:
    """All that decides a result, as JSON. The order of a mapping counts: a function may depend on it."""
    call.apply_defaults()
    key = {
        "function": f"{function.__module__}.{function.__qualname__}",
        "code": hash_of_code() + code_of_the_course(),
        "arguments": call.arguments,
    }
    return json.dumps(key, default=_content)


@functools.cache
def code_of_the_course() -> str:
    """A hash of the modules beside this one. Figures and widgets are left out: they decide no number."""
    sources = {path.name: path.read_text("utf-8") for path in Path(__file__).parent.glob("*.py")}
    return hash_of_value(sources)[:16]


def _content(argument: object) -> object:
    """What identifies an argument that JSON cannot hold."""
    if isinstance(argument, Tensor):
        return hash_of_tensor(argument)
    if isinstance(argument, nn.Module):
        return hash_of_model(argument)
    if is_dataclass(argument) and not isinstance(argument, type):
        return {type(argument).__name__: asdict(argument)}
    if isinstance(argument, Sequence):
        return list(argument)
    kinds = "tensors, models, dataclasses or JSON's values"
    raise TypeError(f"expected {kinds}, got {argument!r}: pass one of these")
