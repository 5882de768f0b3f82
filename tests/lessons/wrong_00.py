"""Wrong answers to what lesson 00 asks the reader to write, and what the check says to each."""

from __future__ import annotations

WRONG = {
    "layer_error": {
        "the weights are missing": """\
def layer_error(y, y_hat, w):
    return (y - y_hat).square().sum() / y.square().sum()
""",
        "the weights are not squared": """\
def layer_error(y, y_hat, w):
    return (w * (y - y_hat).square()).sum() / (w * y.square()).sum()
""",
        "this is the root of the error": """\
def layer_error(y, y_hat, w):
    return (w * (y - y_hat)).norm() / (w * y).norm()
""",
        "the norms are not squared": """\
def layer_error(y, y_hat, w):
    return (w * (y - y_hat)).norm(dim=-1).sum() / (w * y).norm(dim=-1).sum()
""",
        "the mean of one error for each token": """\
def layer_error(y, y_hat, w):
    return ((w * (y - y_hat)).square().sum(-1) / (w * y).square().sum(-1)).mean()
""",
        "the energy of the pruned output below it": """\
def layer_error(y, y_hat, w):
    return (w * (y - y_hat)).square().sum() / (w * y_hat).square().sum()
""",
        "how much the energy changed": """\
def layer_error(y, y_hat, w):
    return 1 - (w * y_hat).square().sum() / (w * y).square().sum()
""",
        "this is a sum and no share": """\
def layer_error(y, y_hat, w):
    return (w * (y - y_hat)).square().sum()
""",
        "upside down": """\
def layer_error(y, y_hat, w):
    return (w * y).square().sum() / (w * (y - y_hat)).square().sum()
""",
        "the share that is left": """\
def layer_error(y, y_hat, w):
    return 1 - (w * (y - y_hat)).square().sum() / (w * y).square().sum()
""",
        "only the difference is weighted": """\
def layer_error(y, y_hat, w):
    return (w * (y - y_hat)).square().sum() / y.square().sum()
""",
        "as one number, got a tensor of shape (2, 5)": """\
def layer_error(y, y_hat, w):
    return (w * (y - y_hat)).square().sum(-1) / (w * y).square().sum(-1)
""",
        "token by token, got": """\
def layer_error(y, y_hat, w):
    return (w * (y - y_hat)).abs().sum() / (w * y).abs().sum()
""",
    }
}
