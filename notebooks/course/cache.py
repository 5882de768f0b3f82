"""Heavy statistics, computed once: a cache on disk that notebooks, widgets and kernels share.

`@cached` goes on a function that returns tensors and numbers. A result is one safetensors file, named by the SHA-256 of
all that decides it: the function, its arguments (models and tensors by content, not by name), and the code behind it:
that of the method and of this folder. So a formula that is mended, or broken, never meets numbers of its former self.
Writing is atomic: two kernels that compute one entry at once both end well. A damaged file is computed anew.
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

from comp_lib.system.cache import remembered
from comp_lib.system.files import hash_of_code, hash_of_model, hash_of_tensor, hash_of_value
from comp_lib.system.machine import cache_folder

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Tensors = dict[str, Tensor]


def cached(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compute `function` once for each set of arguments, without gradients.

    Arguments: tensors, models, dataclasses, and what JSON can hold.
    Result: what JSON can hold, and tensors anywhere in it, which come back on the CPU; tuples come back as lists.
    The call raises InputError when the entry cannot be written, and TypeError for an argument of another kind.
    """

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        key = _key(function, inspect.signature(function).bind(*args, **kwargs))
        path = cache_folder() / "statistics" / f"{function.__name__}-{hash_of_value(key)[:24]}.safetensors"
        result: Result = remembered(path, lambda: function(*args, **kwargs))
        return result

    return wrapper


def _key(function: Callable[..., object], call: inspect.BoundArguments) -> str:
    """All that decides a result, as JSON; the order of a mapping counts, since the first may be treated as such."""
    call.apply_defaults()
    key = {
        "function": f"{function.__module__}.{function.__qualname__}",
        "code": hash_of_code() + code_of_the_course(),
        "arguments": call.arguments,
    }
    return json.dumps(key, default=_content)


@functools.cache
def code_of_the_course() -> str:
    """Of the modules beside this one; figures and widgets decide no number."""
    return hash_of_value({path.name: path.read_text("utf-8") for path in Path(__file__).parent.glob("*.py")})[
        :16
    ]


def _content(argument: object) -> object:
    """An argument that JSON cannot hold, by what counts of it."""
    if isinstance(argument, Tensor):
        return hash_of_tensor(argument)
    if isinstance(argument, nn.Module):
        return hash_of_model(argument)
    if is_dataclass(argument) and not isinstance(argument, type):
        return {type(argument).__name__: asdict(argument)}
    if isinstance(argument, Sequence):
        return list(argument)
    raise TypeError(
        f"expected tensors, models, dataclasses or JSON's values, got {argument!r}: pass one of these"
    )
