"""Wrong answers to what lesson 02b asks the reader to write, and what the check says to each."""

from __future__ import annotations

GIVEN = """\
def one_round(P, V, count):
    order = (V.square().sum(1) / P.diagonal()).argsort()
    R, K = order[:count], order[count:].sort().values
    cross, own, rows = P[K][:, R], P[R][:, R], V[R]
    shift, down = torch.linalg.solve(own, rows), torch.linalg.solve(own, cross.T)
    """

WRONG = {
    "one_round": {
        "P is only cut out": GIVEN + "return K, P[K][:, K], V[K] - cross @ shift",
        "the correction of P has the wrong sign": (
            GIVEN + "return K, P[K][:, K] + cross @ down, V[K] - cross @ shift"
        ),
        "P: the middle factor is the inverse": (
            GIVEN + "return K, P[K][:, K] - cross @ own @ cross.T, V[K] - cross @ shift"
        ),
        "P: the middle factor is missing": (
            GIVEN + "return K, P[K][:, K] - cross @ cross.T, V[K] - cross @ shift"
        ),
        "P: this divides by the diagonal": (
            GIVEN + "return K, P[K][:, K] - cross / own.diagonal() @ cross.T, V[K] - cross @ shift"
        ),
        "this is the correction of P": GIVEN + "return K, cross @ down, V[K] - cross @ shift",
        "V is only cut out": GIVEN + "return K, P[K][:, K] - cross @ down, V[K]",
        "the change of V has the wrong sign": (
            GIVEN + "return K, P[K][:, K] - cross @ down, V[K] + cross @ shift"
        ),
        "V: the middle factor is missing": (
            GIVEN + "return K, P[K][:, K] - cross @ down, V[K] - cross @ rows"
        ),
        "V: this divides by the diagonal": (
            GIVEN + "return K, P[K][:, K] - cross @ down, V[K] - cross / own.diagonal() @ rows"
        ),
        "expected P of shape (5, 5), got (7, 7)": GIVEN
        + "return K, P - P[:, R] @ torch.linalg.solve(own, P[R]), V[K]",
        "got 2 things": GIVEN + "return P[K][:, K] - cross @ down, V[K] - cross @ shift",
        "K stands above your lines": GIVEN + "return R[:1].repeat(len(K)), P[K][:, K], V[K]",
    },
}
