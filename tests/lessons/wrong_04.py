"""Wrong answers to what lesson 04 asks the reader to write, and what the check says to each."""

from __future__ import annotations

WRONG = {
    "solve_mask": {
        "every factor is 1": """\
def solve_mask(G, kept, ridge):
    inner = G[kept][:, kept]
    d = ridge * inner.diagonal()
    return torch.linalg.solve(inner + torch.diag(d), inner.sum(1) + d)
""",
        "this pulls the factors to 0": """\
def solve_mask(G, kept, ridge):
    d = ridge * G.diagonal()[kept]
    return torch.linalg.solve(G[kept][:, kept] + torch.diag(d), G.sum(1)[kept])
""",
        "the penalty is missing on the left side": """\
def solve_mask(G, kept, ridge):
    d = ridge * G.diagonal()[kept]
    return torch.linalg.solve(G[kept][:, kept], G.sum(1)[kept] + d)
""",
        "the penalty is the ridge alone": """\
def solve_mask(G, kept, ridge):
    d = torch.full((len(kept),), ridge, dtype=G.dtype)
    return torch.linalg.solve(G[kept][:, kept] + torch.diag(d), G.sum(1)[kept] + d)
""",
        "neurons that stay, got all": """\
def solve_mask(G, kept, ridge):
    d = ridge * G.diagonal()[kept]
    mask = torch.zeros(len(G), dtype=G.dtype)
    mask[kept] = torch.linalg.solve(G[kept][:, kept] + torch.diag(d), G.sum(1)[kept] + d)
    return mask
""",
        "the factors of all neurons belong together": """\
def solve_mask(G, kept, ridge):
    return G.sum(1)[kept] / G.diagonal()[kept]
""",
        "and the least is": """\
def solve_mask(G, kept, ridge):
    d = ridge * G.diagonal().mean().expand(len(kept))
    return torch.linalg.solve(G[kept][:, kept] + torch.diag(d), G.sum(1)[kept] + d)
""",
    },
    "guarded_mask": {
        "this is the mask without a guard": """\
def guarded_mask(G, kept, ridge, bound=0.05):
    return solve_mask(G, kept, ridge)
""",
        "raise the ridge instead": """\
def guarded_mask(G, kept, ridge, bound=0.05):
    mask = solve_mask(G, kept, ridge)
    return torch.ones_like(mask) if mask.var(unbiased=False) > bound else mask
""",
        "look at it again after each solve": """\
def guarded_mask(G, kept, ridge, bound=0.05):
    mask = solve_mask(G, kept, ridge)
    return solve_mask(G, kept, 4 * ridge) if mask.var(unbiased=False) > bound else mask
""",
        "not the first such mask": """\
def guarded_mask(G, kept, ridge, bound=0.05):
    while (mask := solve_mask(G, kept, ridge)).var(unbiased=False) > bound:
        ridge *= 10
    return mask
""",
        "look at it before the ridge is raised": """\
def guarded_mask(G, kept, ridge, bound=0.05):
    if bound < 1:
        while (mask := solve_mask(G, kept, ridge)).var(unbiased=False) > bound:
            ridge *= 4
        return mask
    return solve_mask(G, kept, 4 * ridge)
""",
        "one step too far": """\
def guarded_mask(G, kept, ridge, bound=0.05):
    while solve_mask(G, kept, ridge).var(unbiased=False) > bound:
        ridge *= 4
    return solve_mask(G, kept, 4 * ridge)
""",
    },
}
