"""Wrong answers to what the reader writes in lesson 09, and what their checks say to each."""

DUAL = """\
def dual_diagonal(X, D):
    Z = X / D
    Y = torch.linalg.solve({inner}, {right})
    return {answer}
"""
INNER = "torch.eye(len(X)).to(X) + Z @ X.T"
ANSWER = "1 / D - (Z * Y).sum(0)"


def layer(attention="2 * d * a + 2 * d * b", mlp="3 * d * n", norms="2 * d", bytes_of_number="4 *"):
    """The source of an answer, right unless an argument makes it wrong."""
    return f"def layer_bytes(d, n, a, b):\n    return {bytes_of_number} ({attention} + {mlp} + {norms})"


WRONG = {
    "layer_bytes": {
        "each of them takes 4 bytes": layer(bytes_of_number=""),
        "not 2": layer(bytes_of_number="2 *"),
        "the two norms": layer(norms="0"),
        "one before each step": layer(norms="d"),
        "three matrices": layer(mlp="2 * d * n"),
        "have b rows each": layer(attention="4 * d * a"),
        "k_proj or v_proj is missing": layer(attention="2 * d * a + d * b"),
        "q_proj or o_proj is missing": layer(attention="d * a + 2 * d * b"),
        "one by one": layer(mlp="3 * n * n"),
    },
    "dual_diagonal": {
        "the sign is the other one": DUAL.format(inner=INNER, right="Z", answer="1 / D + (Z * Y).sum(0)"),
        "1 / D is missing": DUAL.format(inner=INNER, right="Z", answer="(Z * Y).sum(0)"),
        "not one over the diagonal": ("def dual_diagonal(X, D):\n    return 1 / (X.square().sum(0) + D)"),
        "I is missing": DUAL.format(inner="Z @ X.T", right="Z", answer=ANSWER),
        "U has D^-1": DUAL.format(inner="torch.eye(len(X)).to(X) + X @ X.T", right="Z", answer=ANSWER),
        "once it is missing": DUAL.format(inner=INNER, right="X", answer=ANSWER),
        "not of X": DUAL.format(inner=INNER, right="X", answer="1 / D - (X * Y).sum(0)"),
        "only its diagonal": (
            "def dual_diagonal(X, D):\n    return torch.linalg.inv(X.T @ X + torch.diag(D))"
        ),
        "on the way there is a tensor": (
            "def dual_diagonal(X, D):\n    return torch.linalg.inv(X.T @ X + torch.diag(D)).diagonal()"
        ),
        "the first number on the diagonal": DUAL.format(
            inner=INNER, right="Z", answer="1 / D - (Z * Y).mean(0)"
        ),
    },
}
