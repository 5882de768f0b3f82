"""What pruning must hold in memory, counted from the shape of a model: all of it at once, or one layer at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ..shape import Shape

HALF, SINGLE, DOUBLE = 2, 4, 8  # bytes of a number: of stored weights, of what is computed with, of sums


@dataclass(frozen=True)
class Needs:
    """Bytes of what some way of pruning holds."""

    weights: int  # all of them, in half precision
    gradients: int  # as many: what a method holds besides that asks the loss
    layer: int  # the largest decoder layer, in single precision
    hidden: int  # the hidden states of all calibration tokens, in single precision
    gram: int  # n x n sums of the widest dense layer, in double precision
    dual: int  # T x T sums and the T x n inputs in place of them

    @property
    def statistics(self) -> int:
        """The smaller form: with fewer tokens than neurons the dual one."""
        return min(self.gram, self.dual)

    @property
    def whole(self) -> int:
        """What a method with gradients holds at once."""
        return self.weights + self.gradients

    @property
    def streamed(self) -> int:
        """What is held when layers come one at a time."""
        return self.layer + self.hidden + self.statistics


def needs(shape: Shape, tokens: int) -> Needs:
    """Of a model of that shape with that many calibration tokens T; n is its largest number of MLP neurons."""
    neurons = max(shape.neurons)
    return Needs(
        weights=HALF * shape.total,
        gradients=HALF * shape.total,
        layer=SINGLE * max(map(shape.layer, range(shape.layers))),
        hidden=SINGLE * tokens * shape.hidden,
        gram=DOUBLE * neurons**2,
        dual=DOUBLE * tokens**2 + SINGLE * tokens * neurons,
    )
