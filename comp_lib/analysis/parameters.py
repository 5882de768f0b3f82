"""What a check-up is told: the parameters of `notebooks/checkup.ipynb`, checked before any work.

papermill passes on what it does not know, with a warning; here an unknown name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibration.text import KINDS
from ..errors import InputError, suggestion
from ..models.load import DTYPES
from ..settings import METHODS
from ..system.machine import available_device
from .sample import check_kinds

LONGEST = 24 * 60.0  # minutes
MOST_RATIOS = 8


@dataclass(frozen=True)
class Parameters:
    """Of one check-up."""

    model: str = "smollm2-135m"
    kinds: tuple[str, ...] = KINDS  # of text
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3)  # parts of the decoder's parameters that may go
    minutes: float = 10.0  # that it may take, about
    peer: str = "wanda-sp"  # a method to compare with; "" for none
    device: str = "cpu"
    against: str = ""  # another checkpoint to compare with; "" for none
    allowed: float = 0.2  # nats per token of loss that may be lost, on the mean of the kinds
    seed: int = 0
    dtype: str = "float32"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Parameters:
        """From names and values, lists for tuples. Raises InputError for an unknown name, or a value out of range."""
        known = cls.__dataclass_fields__
        for name in values:
            if name not in known:
                raise InputError(
                    f"expected parameters among {', '.join(known)}, got {name!r}: {suggestion(str(name), known)}"
                )
        told = {name: _typed(name, value, getattr(cls, name)) for name, value in values.items()}
        parameters = cls(**told)
        parameters.check()
        return parameters

    def check(self) -> None:
        """Raises InputError for the first value that cannot be used; whether models can be read is seen later."""
        check_kinds(self.kinds)
        if not self.model.strip():
            raise InputError("expected the name of a model, got an empty one: smollm2-135m is embedded")
        wrong = [ratio for ratio in self.ratios if not 0.0 < ratio < 1.0]
        if wrong or not self.ratios or len(self.ratios) > MOST_RATIOS or list(self.ratios) != sorted(set(self.ratios)):
            got = f"{', '.join(f'{ratio:g}' for ratio in self.ratios) or 'none'}: write for example 0.1,0.2,0.3"
            raise InputError(f"expected 1 to {MOST_RATIOS} rising ratios between 0 and 1, got {got}")
        if not 0.0 < self.minutes <= LONGEST:
            raise InputError(f"expected minutes above 0, at most {LONGEST:g}, got {self.minutes:g}: 10 is a good start")
        if self.peer and self.peer not in METHODS:
            wanted = f"a peer among {', '.join(METHODS)}, or none"
            raise InputError(f"expected {wanted}, got {self.peer!r}: {suggestion(self.peer, METHODS)}")
        if not 0.0 <= self.allowed <= 10.0:
            raise InputError(f"expected an allowed loss of 0 to 10 nats per token, got {self.allowed:g}: 0.2 is usual")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"expected a seed from 0 to 2^63 - 1, got {self.seed}: choose one of those")
        if self.dtype not in DTYPES:
            raise InputError(f"expected a dtype among {', '.join(DTYPES)}, got {self.dtype!r}: choose one")
        available_device(self.device, double=True)


def _typed(name: str, value: Any, default: Any) -> Any:
    """The value as the type of its default. Raises InputError for one of another kind."""
    kind = type(default)
    if kind is tuple and isinstance(value, list | tuple):
        inner = type(default[0])
        if all(_is(item, inner) for item in value):
            return tuple(map(inner, value))
    elif kind is str and isinstance(value, Path):
        return str(value)
    elif value is None and default == "":
        return ""
    elif _is(value, kind):
        return kind(value)
    wanted = f"a list of {type(default[0]).__name__}" if kind is tuple else kind.__name__
    raise InputError(f"expected the parameter {name} to be {wanted}, got {value!r}: write it as {default!r}")


def _is(value: Any, kind: type) -> bool:
    """Whether a value may stand where one of that kind is wanted: a whole number is a number, True is none."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (kind is float and isinstance(value, int))
