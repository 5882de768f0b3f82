"""Additive statistics of a dense layer: all that COMP needs to know about the calibration text.

For y = X W with X (T, n) and W (n, m), the tokens T vanish from every formula of the method: what counts is

    C = X^T X (n, n)      and, when the target is not the layer's own output,     B = X^T Y* (n, m).

Both are sums over tokens, so they are gathered batch by batch, and two halves of a text can be added. Products run in
the data's own precision, sums in float64: the later inverse needs the digits.

Beside them the plain sum of x is kept, for the mean input that a bias can stand in for.

A row may carry a weight. COMP divides it by the norm of the residual stream behind the layer, so that errors count
*relative* to what they disturb and one massive-activation token does not rule the fit. (Our derivation.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Gram:
    """Sums over tokens for a dense layer with n inputs and m outputs."""

    xtx: Tensor  # C (n, n), float64
    xty: Tensor | None  # B (n, m), float64; None: the target is the layer's own output, B = C W
    x: Tensor  # sum of x (n,), float64, each token once whatever its weight
    ones: Tensor  # X^T 1 and 1^T 1 with the weights of C, (n + 1,), float64: what the error of a bias needs
    tokens: int = 0

    @classmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Gram:
        """Empty sums; with `outputs`, for a target that comes from outside."""
        make = lambda *size: torch.zeros(*size, dtype=torch.float64, device=device)  # noqa: E731
        outside = None if outputs is None else make(inputs, outputs)
        return cls(make(inputs, inputs), outside, make(inputs), make(inputs + 1))

    def add(self, x: Tensor, target: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Add tokens: x (..., n), target (..., m) if the sums have one, weight (...) per token."""
        x = x.detach().flatten(0, -2).float()  # (T, n)
        self.x += x.sum(0, dtype=torch.float64)
        one = x.new_ones(len(x)) if weight is None else weight.reshape(-1)
        if weight is not None:
            x = x * one[:, None]
        self.xtx += x.T @ x
        self.ones += torch.cat([x.T @ one.to(x), (one @ one)[None]])
        if (target is None) != (self.xty is None):
            raise ValueError("expected a target exactly when the sums were made for one")
        if target is not None:
            y = target.detach().flatten(0, -2).float()
            self.xty += x.T @ (y if weight is None else y * weight.reshape(-1, 1))
        self.tokens += len(x)

    def __add__(self, other: Gram) -> Gram:
        """Sums over both texts."""
        xty = None if self.xty is None else self.xty + other.xty
        return Gram(self.xtx + other.xtx, xty, self.x + other.x, self.ones + other.ones, self.tokens + other.tokens)

    @property
    def mean(self) -> Tensor:
        """Mean input (n,), each token once."""
        return self.x / max(self.tokens, 1)

    def bias_energy(self, gap: Tensor, bias: Tensor) -> float:
        """||X D - 1 b^T||^2 - ||X D||^2 = (1^T 1) b.b - 2 (X^T 1).(D b): gap D (n, m), bias b (m,)."""
        return float(self.ones[-1] * (bias @ bias) - 2.0 * (self.ones[:-1] @ (gap @ bias)))

    def target(self, weight: Tensor) -> Tensor:
        """B = X^T Y* (n, m); for the layer's own output it is C W, with weight W (n, m)."""
        return self.xtx @ weight if self.xty is None else self.xty


def contributions(xtx: Tensor, weight: Tensor) -> Tensor:
    """Gram matrix of the neurons' contributions a_i = x_i w_i^T: G = C o (W W^T), (n, n). (Our derivation, tested.)

    xtx: C (n, n); weight: W (n, m). For any mask m: ||Y - sum_i m_i a_i||^2 = (1 - m)^T G (1 - m).
    """
    return xtx * (weight @ weight.T)


def token_weights(stream: Tensor) -> Tensor:
    """1 / ||h_t||, h being the residual stream behind the layer: (..., d) -> (...)."""
    norms = stream.detach().float().norm(dim=-1)
    return 1.0 / norms.clamp_min(torch.finfo(torch.float32).tiny ** 0.5)


def residual_energy(gram: Tensor, weight: Tensor, new_weight: Tensor) -> float:
    """||X W - X V||^2 = tr((W - V)^T C (W - V)): gram C (n, n), weight W and new_weight V (n, m)."""
    if not isinstance(gram, Tensor):  # the dual form
        return gram.energy(weight - new_weight)
    gap = (weight - new_weight).float()  # a sum of squares to be reported: single precision is plenty
    return float((gap * (gram.float() @ gap)).sum())
