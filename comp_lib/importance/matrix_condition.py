"""The condition of a matrix, as a measure of what a neuron is worth.

Context. An output linear keeps some of its n inputs, and what stays may be refitted. Two ways to refit, one
problem:

    minimise  tr((W - V)^T H (W - V))   over V with V_i = 0 for every input i that goes

* full least squares: H = C + D, C = X^T X, and W the layer's weights (n, m);
* mask: H = G + D, G the Gram matrix of contributions, and W = (1, ..., 1)^T (n, 1), V the mask.

D = lambda diag(C), or lambda diag(G), holds V at W: sum_i D_ii ||w_i - v_i||^2, in proportion to each input's
own energy. So a loud input is held harder, and its units do not matter: with x_i -> c x_i and w_i -> w_i / c,
v_i follows as v_i / c, and scores and errors stay (with a ridge r I they would not).

Intuition. Removing i hurts as much as the others are unable to reproduce it. With P = H^-1,

    kappa_i = sqrt(H_ii P_ii) >= 1        individual condition number (Stewart's collinearity index, 1987)
    s_i     = ||w_i||^2 / P_ii = H_ii ||w_i||^2 / kappa_i^2   the rise of the objective after a refit

and for a block g of inputs that go together (a KV group): s_g = tr(W_g^T (P_gg)^-1 W_g).

Rounds. After a removal the survivors' best weights and their inverse follow without a new factorisation:

    V_K = V_K - P_KR (P_RR)^-1 V_R        P_KK = P_KK - P_KR (P_RR)^-1 P_RK        (Schur complement)

so one sweep gives the order of removal, the error after each round, and the weights refitted so far. This is
our derivation (the paper's text was not at hand); every formula is tested against brute force.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoder.blocks import inputs_of_blocks
from .statistics.solve import Inverse, MatrixInverse, spd_inverse

BLOCKS_PER_ROUND = 32  # blocks that a round removes by default, if the layer does not have many blocks
# With many blocks a round removes blocks // ROUNDS_FOR_ALL of them, so a sweep that removes all blocks has at
# most about this many rounds.
ROUNDS_FOR_ALL = 64
INPUTS_PER_PIECE = 512  # inputs whose W - V is in memory at once


@dataclass(frozen=True)
class Sweep:
    """One sweep of removals over the blocks of an output linear."""

    kept: Tensor
    """The blocks that stay, ascending (k,)."""
    order: Tensor
    """The blocks that went, first to last (removed,)."""
    objectives: Tensor
    """tr((W - V)^T H (W - V)) after each round (rounds,): the error and the ridge's penalty."""
    counts: Tensor
    """The number of blocks that are gone after each round (rounds,)."""
    round_penalties: Tensor
    """The ridge's penalty alone, sum_i D_ii ||w_i - v_i||^2, after each round (rounds,)."""
    scores: Tensor
    """The importance of every block before the first round (blocks,)."""
    weights: Tensor
    """The refitted weights V (n, m), zero where a block went."""

    @property
    def errors(self) -> Tensor:
        """||X W - X V||^2 after each round (rounds,): the error on the data, without the penalty.

        It is so where the sweep got the `input_penalties` of its ridge; else these are the objectives.
        """
        return self.objectives - self.round_penalties


def condition_numbers(diagonal: Tensor, inverse_diagonal: Tensor) -> Tensor:
    """kappa_i = sqrt(H_ii (H^-1)_ii), (n,), each at least 1, from the diagonals (n,) of H and of its inverse.

    A sweep does not need it: the condition is in `scores_of`.
    """
    return (diagonal * inverse_diagonal).clamp_min(1.0).sqrt()


def scores_of(diagonal_blocks: Tensor, weights: Tensor) -> Tensor:
    """s_g = tr(W_g^T (P_gg)^-1 W_g), (blocks,), for consecutive blocks g: P_gg (blocks, b, b), W (n, m)."""
    if diagonal_blocks.shape[1] == 1:
        norms: Tensor = torch.linalg.vector_norm(weights, dim=1)  # makes no copy of all weights
        return norms.square() / diagonal_blocks.flatten()
    rows = weights.reshape(len(diagonal_blocks), diagonal_blocks.shape[1], -1).to(diagonal_blocks)
    # Blocks are solved one by one: the batched solve of PyTorch 2.13 fails with MKL and two threads
    # ("Parameter 6 ... DLASWP").
    solved = torch.stack(
        [torch.linalg.solve(block, row) for block, row in zip(diagonal_blocks, rows, strict=True)]
    )
    return (rows * solved).sum((1, 2))


def movement_penalty(input_penalties: Tensor, weights: Tensor, refitted: Tensor) -> float:
    """sum_i D_ii ||w_i - v_i||^2 for D_ii (n,), W and V (n, m).

    INPUTS_PER_PIECE inputs are summed at a time, since W - V would be as large as the weights.
    """
    total = 0.0
    pieces = zip(
        input_penalties.split(INPUTS_PER_PIECE),
        weights.split(INPUTS_PER_PIECE),
        refitted.split(INPUTS_PER_PIECE),
        strict=True,
    )
    for piece_penalties, before, after in pieces:
        movements = (before - after).square().sum(1)
        total += float(piece_penalties @ movements.to(piece_penalties))
    return total


def sweep(
    inverse: Tensor | Inverse,
    weights: Tensor,
    remove: int,
    *,
    block_size: int = 1,
    per_round: int | None = None,
    input_penalties: Tensor | None = None,
) -> Sweep:
    """Remove `remove` blocks, the least important first, in rounds after each of which the rest is refitted.

    Time: about n (n + m) multiplications for each input that goes. Memory: one copy of each argument.

    Args:
        inverse: P = H^-1 (n, n). A tensor is not changed; an `Inverse` is used up.
        weights: W (n, m), which is not changed.
        remove: how many blocks go.
        block_size: inputs of a block.
        per_round: blocks that go in a round; None: BLOCKS_PER_ROUND, or all blocks divided by ROUNDS_FOR_ALL
            if that is more.
        input_penalties: D_ii (n,), the share of the ridge in H, for `Sweep.round_penalties`; None: zeros.
    """
    if isinstance(inverse, Tensor):
        inverse = MatrixInverse(inverse.clone(), block_size)
    refitted = weights.clone(memory_format=torch.contiguous_format)  # each round needs the norms of its rows
    alive = torch.ones(len(weights) // block_size, dtype=torch.bool, device=weights.device)
    per_round = per_round or max(BLOCKS_PER_ROUND, len(alive) // ROUNDS_FOR_ALL)
    first_scores = scores_of(inverse.diagonal_blocks, refitted)
    scores = first_scores
    objective = 0.0
    order: list[int] = []
    objectives: list[float] = []
    counts: list[int] = []
    round_penalties: list[float] = []
    while len(order) < remove:
        candidates = scores.masked_fill(~alive, torch.inf)
        count = min(per_round, remove - len(order))
        chosen = candidates.argsort(stable=True)[:count]  # of equal scores the earlier block, on any machine
        inputs = inputs_of_blocks(chosen, block_size)  # R (r,)
        inverse_rows = inverse.rows(inputs)  # P_R (r, n)
        removed_weights = refitted[inputs]  # V_R (r, m)
        inner_inverse, _ = spd_inverse(inverse_rows.values[:, inputs])  # (P_RR)^-1 (r, r), small
        shift = inner_inverse @ removed_weights.to(inner_inverse)  # (P_RR)^-1 V_R (r, m)
        objective += float((removed_weights * shift).sum())
        inverse.remove(inverse_rows, inner_inverse)
        refitted.addmm_(inverse_rows.values.to(refitted).T, shift.to(refitted), alpha=-1.0)
        refitted[inputs] = 0.0
        alive[chosen] = False
        order.extend(chosen.tolist())
        counts.append(len(order))
        objectives.append(objective)
        round_penalty = 0.0
        if input_penalties is not None:
            round_penalty = movement_penalty(input_penalties, weights, refitted)
        round_penalties.append(round_penalty)
        if len(order) < remove:
            scores = scores_of(inverse.diagonal_blocks, refitted)
    return Sweep(
        kept=alive.nonzero().flatten(),
        order=torch.tensor(order, dtype=torch.long),
        objectives=torch.tensor(objectives, dtype=torch.float64),
        counts=torch.tensor(counts, dtype=torch.long),
        round_penalties=torch.tensor(round_penalties, dtype=torch.float64),
        scores=first_scores,
        weights=refitted,
    )
