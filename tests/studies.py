"""What a study of layers would find, made up so that every figure has something to show."""

from __future__ import annotations

import torch

from course.layer_importance import LayerStudy


def study_of(layers=6, sequences=2, length=10):
    """A study in which layer 3 turns position 0 only and makes its norm massive.

    Without layer 0 the loss rises most, then without layer 3; layers 1 and 4 harm least, and so go first.
    """
    noise = torch.rand(layers + 1, sequences, length, generator=torch.Generator().manual_seed(0))
    turn = 0.02 + 0.01 * noise[:layers]
    turn[0] = 0.9
    turn[3, :, 0] = 0.95
    turn[4:, :, 0] = 0.0
    norms = torch.linspace(1.0, 9.0, layers + 1)[:, None, None] * (1 + 0.1 * noise[layers:])
    norms[4:, :, 0] = 2000.0
    harm = torch.cat([torch.tensor([7.0, 0.01, 0.3, 2.0, 0.02, 0.4]), torch.linspace(0.1, 0.9, layers - 6)])
    harm = harm[:, None] * torch.linspace(0.9, 1.1, sequences)
    return LayerStudy(turn.mean((1, 2)), 1 - turn, norms, harm)
