"""Wrong answers to what the reader writes in lesson 10, and what their checks say to each."""


def kl(answer):
    """The source of an answer, from what it returns."""
    return f"""\
def kl(p, z):
    log_p, log_q, q = p.clamp_min(1e-30).log(), z.log_softmax(-1), z.softmax(-1)
    return {answer}
"""


def low_rank(answer):
    return f"def low_rank(x, W, A, B, scale):\n    return {answer}"


WRONG = {
    "kl": {
        "p weighs the tokens, not q": kl("(q * (log_q - log_p)).sum(-1)"),
        "this is the cross-entropy": kl("-(p * log_q).sum(-1)"),
        "they need the softmax first": kl("(p * (log_p - z)).sum(-1)"),
        "the sign is the other one": kl("(p * (log_q - log_p)).sum(-1)"),
        "mean over the vocabulary": kl("(p * (log_p - log_q)).mean(-1)"),
        "one number came for all rows": kl("(p * (log_p - log_q)).sum()"),
        "the mean over the rows": kl("(p * (log_p - log_q)).sum(-1).mean()"),
        "these are the terms": kl("p * (log_p - log_q)"),
        "where p is 0 the answer is NaN": kl("(p * (p.log() - log_q)).sum(-1)"),
        "the divergence of the first row": kl("(p * (log_p - log_q)).sum(-1) + 1"),
    },
    "low_rank": {
        "the change is missing": low_rank("x @ W.T"),
        "W is missing": low_rank("scale * (x @ A.T) @ B.T"),
        "not multiplied by `scale`": low_rank("x @ W.T + (x @ A.T) @ B.T"),
        "not W": low_rank("scale * (x @ W.T + (x @ A.T) @ B.T)"),
        "not taken off": low_rank("x @ W.T - scale * (x @ A.T) @ B.T"),
        "a whole matrix m x n": low_rank("x @ (W + scale * B @ A).T"),
        "raises RuntimeError": low_rank("x @ W.T + scale * (x @ A) @ B"),
        "the first output of the first token": low_rank("x @ W.T + scale**2 * (x @ A.T) @ B.T"),
    },
}
