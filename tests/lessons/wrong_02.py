"""Wrong answers to what lesson 02 asks the reader to write, and what the check says to each."""

from __future__ import annotations

WRONG = {
    "contributions": {
        "this is a matrix product: an entry of G": """\
def contributions(C, W):
    return C @ (W @ W.T)
""",
        "this is C: the rows of W are missing": """\
def contributions(C, W):
    return C
""",
        "C is missing": """\
def contributions(C, W):
    return W @ W.T
""",
        "each column was multiplied by one number": """\
def contributions(C, W):
    return C * W.square().sum(1)
""",
        "have the inner product": """\
def contributions(C, W):
    return C * (W @ W.T).abs()
""",
        "expected G of shape (5, 5), got (5, 4)": """\
def contributions(C, W):
    return C @ W
""",
    },
    "condition_numbers": {
        "the root is missing": """\
def condition_numbers(G):
    return G.diagonal() * torch.linalg.inv(G).diagonal()
""",
        "this is the price": """\
def condition_numbers(G):
    return 1 / torch.linalg.inv(G).diagonal()
""",
        "this is one over the price": """\
def condition_numbers(G):
    return torch.linalg.inv(G).diagonal()
""",
        "the energy is missing below the root": """\
def condition_numbers(G):
    return torch.linalg.inv(G).diagonal().sqrt()
""",
        "upside down": """\
def condition_numbers(G):
    return 1 / (G.diagonal() * torch.linalg.inv(G).diagonal()).sqrt()
""",
        "every condition is 1": """\
def condition_numbers(G):
    return (G.diagonal() * (1 / G).diagonal()).sqrt()
""",
        "of shape (5,), got (5, 5)": """\
def condition_numbers(G):
    return (G * torch.linalg.inv(G)).abs().sqrt()
""",
        "NaN or infinity": """\
def condition_numbers(G):
    return (G @ torch.linalg.inv(G) - 2).diagonal().sqrt()
""",
    },
    "refit": {
        "nothing makes up for the removed": """\
def refit(C, W, kept):
    V = torch.zeros_like(W)
    V[kept] = torch.linalg.solve(C[kept][:, kept], C[kept][:, kept] @ W[kept])
    return V
""",
        "how much the kept rows change": """\
def refit(C, W, kept):
    removed = [i for i in range(len(W)) if i not in kept.tolist()]
    V = torch.zeros_like(W)
    V[kept] = torch.linalg.solve(C[kept][:, kept], C[kept][:, removed] @ W[removed])
    return V
""",
        "out of the inverse of C": """\
def refit(C, W, kept):
    V = torch.zeros_like(W)
    V[kept] = torch.linalg.inv(C)[kept][:, kept] @ (C[kept] @ W)
    return V
""",
        "a removed neuron has weights": """\
def refit(C, W, kept):
    V = W.clone()
    V[kept] = torch.linalg.solve(C[kept][:, kept], C[kept] @ W)
    return V
""",
        "V has the kept rows alone": """\
def refit(C, W, kept):
    return torch.linalg.solve(C[kept][:, kept], C[kept] @ W)
""",
        "leaves the error": """\
def refit(C, W, kept):
    V = torch.zeros_like(W)
    H = C + 0.1 * torch.diag(C.diagonal())
    V[kept] = torch.linalg.solve(H[kept][:, kept], H[kept] @ W)
    return V
""",
    },
}
