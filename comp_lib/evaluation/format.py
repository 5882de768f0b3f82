"""What was measured, in words: a number with its interval, and what a loss does to the perplexity.

Perplexity is exp(loss). So a loss that rises by d nats per token multiplies it by exp(d), whatever it was
before, and the ends of the interval of d give those of the factor.
"""

from __future__ import annotations

import math

from .confidence import Interval
from .loss import perplexity_of

PRECISE = ".3f"  # format of nats per token
ROUGH = ".2f"  # the same where there are too few windows for an interval
# A model reads by chance where its loss is above this part of log(vocabulary), the loss of guessing. To know
# how often each token comes is enough for a lower loss.
CHANCE_SHARE = 0.9


def number_format(interval: Interval | None) -> str:
    """The format of a number with this interval: two decimals where there is no interval, else three."""
    return ROUGH if interval is None else PRECISE


def with_interval(value: float, interval: Interval | None, sign: str = "") -> str:
    """A number and its 95% interval, where it has one; `sign` is "+" where a rise shall show one.

    >>> with_interval(0.3328, (0.2801, 0.3855), "+"), with_interval(0.3328, None)
    ('+0.333 (0.280 to 0.386)', '0.33')
    """
    number = f"{value:{sign}{number_format(interval)}}"
    if interval is None:
        return number
    low, high = interval
    return f"{number} ({low:{PRECISE}} to {high:{PRECISE}})"


def perplexity_factor(increase: float, interval: Interval | None) -> str:
    """What multiplies the perplexity where the loss rises by `increase`, nats per token.

    >>> perplexity_factor(0.3328, (0.2801, 0.3855)), perplexity_factor(0.3328, None)
    ('1.39 (1.32 to 1.47)', 'about 1.4')
    """
    factor = perplexity_of(increase)
    if interval is None:
        return f"about {factor:.1f}"
    return f"{factor:.2f}{perplexity_range(interval)}"


def perplexity_range(interval: Interval | None, digits: str = ".2f") -> str:
    """The interval of exp(loss) from that of the loss, in brackets after a space; "" where there is none."""
    if interval is None:
        return ""
    low, high = map(perplexity_of, interval)
    return f" ({low:{digits}} to {high:{digits}})"


def is_by_chance(loss: float, vocabulary: int) -> bool:
    """Whether a loss (nats per token) is NaN or hardly better than that of guessing among so many tokens."""
    return not loss < CHANCE_SHARE * math.log(vocabulary)


def describe_chance(name: str, loss: float, vocabulary: int) -> list[str]:
    """Two sentences on a model of that name whose loss is that of chance; nothing on any other.

    loss: nats per token.
    vocabulary: how many tokens it chooses among.

    >>> describe_chance("own/model", 6.3, 500)[0]
    'own/model reads no better than by chance, so there is nothing to prune yet.'
    >>> describe_chance("own/model", 3.1, 500)
    []
    """
    if not is_by_chance(loss, vocabulary):
        return []
    loss_of_guessing = math.log(vocabulary)
    comparison = "hardly" if loss < loss_of_guessing else "no"
    return [
        f"{name} reads {comparison} better than by chance, so there is nothing to prune yet.",
        f"Its loss is {loss:.2f} nats per token, and guessing among {vocabulary:,} tokens has "
        f"{loss_of_guessing:.2f}. If it writes no language, load the trained weights, or train it first.",
    ]
