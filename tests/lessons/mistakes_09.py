"""Wrong answers to the exercises of lesson 9, and what their checks say to each."""

from __future__ import annotations

import torch

solve = torch.linalg.solve


def finishing(order=("layer", "hidden", "note"), resume=True, hidden_name="hidden-{}"):
    """The right `finish`, unless an argument makes it wrong.

    Args:
        order: what is done after each layer: its weights written, its stream written, the layer noted.
        resume: whether it goes on after the layers that are noted.
        hidden_name: of the file with the stream, in which the number of layers may stand.
    """

    def finish(layers, start, prune_layer, disk):
        count = disk.done() if resume else 0
        hidden = disk.read(hidden_name.format(count)) if count else start
        for index in range(count, layers):
            layer, hidden = prune_layer(index, hidden)
            for step in order:
                if step == "layer":
                    disk.write(f"layer-{index}", layer)
                elif step == "hidden":
                    disk.write(hidden_name.format(index + 1), hidden)
                else:
                    disk.note()

    return finish


def refit(x, w, kept, ridge, penalty=None, target=None, anchor=1.0):
    """The right refit in the dual form, unless an argument makes it wrong.

    Args:
        penalty: of each kept neuron, from their energies; by default `ridge` times its own energy.
        target: what the change of the rows has to add (T, d); by default what the old rows of the kept
            neurons lack.
        anchor: times the old rows, from which the new ones start.
    """
    x_kept = x[:, kept]
    energy = x_kept.square().sum(0)
    penalties = penalty(energy) if penalty else ridge * energy
    if target is None:
        target = x @ w - x_kept @ w[kept]
    scaled = x_kept / penalties
    return anchor * w[kept] + scaled.T @ solve(torch.eye(len(x)).to(x) + scaled @ x_kept.T, target)


def without_ridge(x, w, kept, ridge):
    return refit(x, w, kept, ridge, penalty=lambda energy: energy)


def with_mean_energy(x, w, kept, ridge):
    return refit(x, w, kept, ridge, penalty=lambda energy: ridge * energy.mean())


def towards_zero(x, w, kept, ridge):
    return refit(x, w, kept, ridge, target=x @ w, anchor=0.0)


def primal_refit(x, w, kept, ridge):
    """The right answer by a matrix of n x n numbers."""
    x_kept = x[:, kept]
    penalty = torch.diag(ridge * x_kept.square().sum(0))
    return solve(x_kept.T @ x_kept + penalty, x_kept.T @ (x @ w) + penalty @ w[kept])


def tokens(budget, layer, hidden, neurons, choose_form=min, bytes_each=4):
    """The right number of tokens, unless an argument makes it wrong.

    `choose_form` chooses between the bytes of C and those of the tokens; `bytes_each` is of a parameter of
    the layer.
    """

    def bytes_held(count):
        forms = (8 * neurons**2, 8 * count**2 + 4 * count * neurons)
        return bytes_each * layer + 4 * count * hidden + choose_form(forms)

    low = 0
    high = budget // (4 * hidden)
    while low < high:
        middle = (low + high + 1) // 2
        if bytes_held(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("finish", finishing(("note", "layer", "hidden")), "note a layer last"),
    ("finish", finishing(("layer", "note", "hidden")), "note a layer last"),
    ("finish", finishing(("hidden", "note", "layer")), "half a layer was left behind"),
    ("finish", finishing(hidden_name="hidden"), "a name of their own"),
    ("finish", finishing(resume=False), "began with layer 0"),
    ("finish", finishing(("layer", "note")), "no file 'hidden-1'"),
    ("finish", finishing(("layer", "hidden")), "note each layer once"),
    ("dual_refit", without_ridge, "lambda does nothing"),
    ("dual_refit", with_mean_energy, r"own\* energy"),
    ("dual_refit", lambda x, w, k, lam: refit(x, w, k, lam, target=x @ w), "not all of X W"),
    ("dual_refit", towards_zero, "draws the weights to 0"),
    ("dual_refit", lambda x, w, k, lam: refit(x, w, k, lam, anchor=0.0), "W_K is missing"),
    ("dual_refit", primal_refit, "nothing n x n"),
    ("most_tokens", lambda *sizes: tokens(*sizes, choose_form=lambda forms: forms[0]), "holds C whatever"),
    (
        "most_tokens",
        lambda *sizes: tokens(*sizes, choose_form=lambda forms: forms[1]),
        "holds the tokens whatever",
    ),
    ("most_tokens", lambda *sizes: tokens(*sizes, bytes_each=1), "a parameter is not a byte"),
    ("most_tokens", lambda *sizes: tokens(*sizes) + 1, "still fits"),
]
