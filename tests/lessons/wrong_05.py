"""Wrong answers to what the reader writes in lesson 05, and a part of the sentence that each must get."""

from __future__ import annotations

CHOOSE = """\
def choose(C, W, width, ridge=0.1, per_round=32):
    P = torch.linalg.inv(C + ridge * torch.diag(C.diagonal()))
    V, alive = W, torch.ones(len(W), dtype=torch.bool)
    for gone in range(0, len(W) - width, per_round):
        count = min(per_round, len(W) - width - gone)
        s = (V.square().sum(1) / P.diagonal()).masked_fill(~alive, torch.inf)
        R = s.topk(count, largest=False).indices
        V = V - P[:, R] @ torch.linalg.solve(P[R][:, R], V[R])
        P = P - P[:, R] @ torch.linalg.solve(P[R][:, R], P[R])
        alive[R] = False
    return alive.nonzero().flatten()
"""
COMP = """\
def comp(model, ids, width, ridge=0.1):
    small, kept = shallow_copy(model), []
    h = embed(small, ids)
    arguments = layer_arguments(small, ids.shape[1], h.device, h.dtype)
    for layer in small.model.layers:
        r = pass_on(layer, "attention", h, arguments)
        C, W = watch(layer, "mlp", r, arguments), layer.mlp.down_proj.weight.T.double()
        K = choose(C, W, width, ridge)
        cut(layer, K, refit(C, W, K, ridge))
        h = pass_on(layer, "mlp", r, arguments)
        kept.append(K)
    small.config.intermediate_size = width
    return small, kept
"""


def changed(source: str, *changes: tuple[str, str]) -> str:
    """A right answer made wrong."""
    for right, wrong in changes:
        assert source.count(right) == 1, right
        source = source.replace(right, wrong)
    return source


NO_V = ("        V = V - P[:, R] @ torch.linalg.solve(P[R][:, R], V[R])\n", "")
NO_P = ("        P = P - P[:, R] @ torch.linalg.solve(P[R][:, R], P[R])\n", "")
CUT = "        cut(layer, K, refit(C, W, K, ridge))\n"
PASS_ON = '        h = pass_on(layer, "mlp", r, arguments)\n'

WRONG = {
    "choose": {
        "each price is that of the first round": changed(CHOOSE, NO_V, NO_P),
        "the prices use the rows of W in each round": changed(CHOOSE, NO_V),
        "V changes and P does not": changed(CHOOSE, NO_P),
        "is P updated before V": changed(CHOOSE, NO_V, (NO_P[0], NO_P[0] + NO_V[0])),
        "the dearest neurons went": changed(
            CHOOSE, ("torch.inf", "-torch.inf"), ("largest=False", "largest=True")
        ),
        "the last round removes fewer": changed(
            CHOOSE, ("min(per_round, len(W) - width - gone)", "per_round")
        ),
        "`alive` must say which went": changed(CHOOSE, ("        alive[R] = False\n", "")),
        "these neurons go: return those that stay": changed(CHOOSE, ("alive.nonzero", "(~alive).nonzero")),
        "return the numbers of those that stay": changed(CHOOSE, ("alive.nonzero().flatten()", "alive")),
    },
    "refit": {
        "the pull is missing": """\
def refit(C, W, K, ridge=0.1):
    V = torch.zeros_like(W)
    V[K] = torch.linalg.solve(C[K][:, K], C[K] @ W)
    return V""",
        "the pull stands on the left side alone": """\
def refit(C, W, K, ridge=0.1):
    V = torch.zeros_like(W)
    V[K] = torch.linalg.solve(C[K][:, K] + ridge * torch.diag(C.diagonal()[K]), C[K] @ W)
    return V""",
        "each row is held alike": """\
def refit(C, W, K, ridge=0.1):
    V, D = torch.zeros_like(W), ridge * torch.eye(len(K)).double()
    V[K] = torch.linalg.solve(C[K][:, K] + D, C[K] @ W + D @ W[K])
    return V""",
        "the output to reach is that of all n neurons": """\
def refit(C, W, K, ridge=0.1):
    V, D = torch.zeros_like(W), ridge * torch.diag(C.diagonal()[K])
    V[K] = torch.linalg.solve(C[K][:, K] + D, C[K][:, K] @ W[K] + D @ W[K])
    return V""",
        "V has the kept rows alone": """\
def refit(C, W, K, ridge=0.1):
    D = ridge * torch.diag(C.diagonal()[K])
    return torch.linalg.solve(C[K][:, K] + D, C[K] @ W + D @ W[K])""",
        "its row of V is zero": """\
def refit(C, W, K, ridge=0.1):
    V, D = W.clone(), ridge * torch.diag(C.diagonal()[K])
    V[K] = torch.linalg.solve(C[K][:, K] + D, C[K] @ W + D @ W[K])
    return V""",
    },
    "comp": {
        "pass on after the cut": changed(COMP, (PASS_ON, ""), (CUT, PASS_ON + CUT)),
        "the text never moved on": changed(COMP, (PASS_ON, "")),
        "the attention was left out": changed(COMP, ('pass_on(layer, "attention", h, arguments)', "h")),
        "nothing is refitted": changed(COMP, ("refit(C, W, K, ridge)", "W")),
        "no layer is narrower than before": changed(COMP, (CUT, "")),
        "the dense model was changed": changed(COMP, ("in small.model.layers", "in model.model.layers")),
        "and the weights of a model are not": changed(COMP, (".weight.T.double()", ".weight.T")),
        "expected two things": changed(COMP, ("return small, kept", "return small")),
        "a list with the neurons that stay in each of 3 layers": changed(
            COMP, ("        kept.append(K)\n", "")
        ),
    },
    "group_prices": {
        "these are sums of single prices": """\
def group_prices(P, W, size):
    return (W.square().sum(1) / P.diagonal()).reshape(-1, size).sum(1)""",
        "the block of P is not inverted": """\
def group_prices(P, W, size):
    return torch.stack([(W[g] * (P[g][:, g] @ W[g])).sum() for g in torch.arange(len(W)).split(size)])""",
        "stand side by side": """\
def group_prices(P, W, size):
    groups = torch.arange(len(W)).reshape(size, -1).T
    return torch.stack([(W[g] * torch.linalg.solve(P[g][:, g], W[g])).sum() for g in groups])""",
        "got one for each column": """\
def group_prices(P, W, size):
    return W.square().sum(1) / P.diagonal()""",
    },
    "verdict": {
        "`adds` changes nothing": """\
def verdict(low, high, adds):
    return "not found" if low <= 0 <= high else "earns" if high < 0 else "costs"
""",
        "each word is turned round": """\
def verdict(low, high, adds):
    return "not found" if low <= 0 <= high else "costs" if (high < 0) == adds else "earns"
""",
        "holds 0": """\
def verdict(low, high, adds):
    return "earns" if (low + high < 0) == adds else "costs"
""",
        "from -0.2 to 0.0": """\
def verdict(low, high, adds):
    return "not found" if low < 0 < high else "earns" if (high <= 0) == adds else "costs"
""",
        'expected "earns", "costs" or "not found"': """\
def verdict(low, high, adds):
    return not low <= 0 <= high""",
    },
}
