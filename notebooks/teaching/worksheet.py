"""The three-neuron toy on paper: `python notebooks/teaching/worksheet.py build/worksheet.pdf`

Two pages to print: the sheet that learners fill in, with a pencil, before lesson 02 is run, and the answers for whoever
teaches. The numbers on both come from X and W below, which are the lesson's own (a test compares).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from comp_lib.errors import InputError
from comp_lib.system.atomic import check_output

X = ((2.0, 1.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 2.0))  # (T, n): three tokens, three neurons
W = ((1.0,), (2.0,), (0.5,))  # (n, d): one output
LOUD = 10.0  # how much louder the first two tokens become at the end
PAPER = (8.27, 11.69)  # A4, inches
TITLE = "Three neurons, by hand"
METADATA = {"Title": TITLE, "CreationDate": None}  # the same bytes every time


@dataclass(frozen=True)
class Toy:
    """All that the sheet asks for."""

    gram: np.ndarray  # G (n, n)
    inverse: np.ndarray  # of G
    cost: np.ndarray  # s (n,)
    condition: np.ndarray  # kappa squared (n,)
    factor: float  # of neuron 2 when neuron 1 goes and neuron 3 stays as it is
    left: float  # the error then


def toy(loud: float = 1.0) -> Toy:
    """The answers, with the first two tokens `loud` times as loud."""
    x, w = np.array(X) * np.array([[loud], [loud], [1.0]]), np.array(W)
    gram = (x.T @ x) * (w @ w.T)
    inverse = np.linalg.inv(gram)
    cost = 1.0 / inverse.diagonal()
    step = gram[0, 1] / gram[1, 1]
    left = gram[0, 0] - gram[0, 1] ** 2 / gram[1, 1]
    return Toy(gram, inverse, cost, gram.diagonal() * inverse.diagonal(), 1.0 + step, left)


def number(value: float) -> str:
    """As a person writes it: a whole number or a short fraction.

    >>> number(0.8), number(5.0)
    ('4/5', '5')
    """
    return str(Fraction(float(value)).limit_denominator(100))


def matrix(values: np.ndarray | tuple[tuple[float, ...], ...]) -> str:
    """Rows in square brackets, a line for each."""
    cells = [[number(value) for value in row] for row in np.array(values).tolist()]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join(f"[ {'  '.join(cell.rjust(width) for cell in row)} ]" for row in cells)


QUESTIONS = (  # heading, what is asked, space for the answer, height on the page
    (
        "1  What does each neuron add to the output?",
        "The contribution of neuron $i$ is $a_i = x_i w_i$: column $i$ of X, times row $i$ of W.",
        "$a_1$ = (          ,          ,          )          $a_2$ = (          ,          ,          )"
        "          $a_3$ = (          ,          ,          )",
        0.115,
    ),
    (
        "2  All inner products: the Gram matrix",
        "$G_{ij}$ is the inner product of $a_i$ and $a_j$. The energy of neuron $i$ is $G_{ii}$.",
        "G =   [             ,             ,             ]\n\n        [             ,             ,             ]\n\n"
        "        [             ,             ,             ]",
        0.165,
    ),
    (
        "3  Neuron 1 goes. What is lost?",
        "(a) if nothing else changes?\n"
        "(b) Neuron 2 may be turned up by a factor $m$. Which $m$ is best, and what is lost then?",
        "(a)  lost:                                        (b)  m =                              lost:",
        0.130,
    ),
    (
        "4  The cost of every neuron, all others re-tuned",
        "Use the same idea: what no multiple of the others reaches. Then fill in: condition squared = energy / cost.",
        "neuron        energy        cost        condition squared\n\n   1\n\n   2\n\n   3",
        0.178,
    ),
    (
        "5  One neuron has to go. Which?",
        "Choose by the least energy, by the highest condition, by the least cost. Which rule is right, and why?",
        "",
        0.110,
    ),
    (
        f"6  The first two tokens become {LOUD:.0f} times as loud",
        "What happens to energies, to conditions, to costs? Which neuron goes now, by each of the three rules?",
        "",
        0.0,
    ),
)


def answers() -> tuple[str, ...]:
    """One for each question."""
    quiet, loud = toy(), toy(LOUD)
    contributions = (np.array(X) * np.array(W)[:, 0]).T
    rows = "\n".join(
        f"   {i + 1}            {number(quiet.gram[i, i]):>3}          {number(quiet.cost[i]):>4}"
        f"              {number(quiet.condition[i]):>2}"
        for i in range(3)
    )
    rule = lambda one: (  # noqa: E731
        f"least energy: neuron {one.gram.diagonal().argmin() + 1};  highest condition: one of neurons "
        f"{' and '.join(str(i + 1) for i in np.flatnonzero(np.isclose(one.condition, one.condition.max())))};  "
        f"least cost: neuron {one.cost.argmin() + 1}"
    )
    return (
        "      ".join(
            f"$a_{i + 1}$ = ({', '.join(map(number, one))})" for i, one in enumerate(contributions)
        ),
        f"{matrix(quiet.gram)}",
        f"(a) its energy, {number(quiet.gram[0, 0])}.   (b) m = {number(quiet.factor)} = {quiet.factor:.1f}, and "
        f"{number(quiet.left)} = {quiet.left:.1f} is lost. Neuron 3 cannot help: $G_{{13}}$ is "
        f"{number(quiet.gram[0, 2])}.",
        f"neuron        energy        cost        condition squared\n{rows}",
        f"{rule(quiet)}.\nNobody can replace neuron 3, though it is the one with the least energy.",
        f"Energies and costs of neurons 1 and 2 grow {LOUD**2:.0f} times, conditions do not change.\n{rule(loud)}.\n"
        "Energy fails in the quiet version, condition in the loud one. Their quotient is right both times.",
    )


def page(title: str, under: str, filled: tuple[str, ...] | None) -> Figure:
    """One sheet: the questions, with space or with answers."""
    figure = plt.figure(figsize=PAPER)
    put = lambda y, text, **looks: figure.text(0.08, y, text, va="top", **looks)  # noqa: E731
    put(0.965, title, size=17, weight="bold")
    put(0.938, under, size=10)
    put(0.908, "X (tokens x neurons)", size=10)
    put(0.890, matrix(X), size=11, family="monospace")
    figure.text(0.40, 0.908, "W (neurons x outputs)", va="top", size=10)
    figure.text(0.40, 0.890, matrix(W), va="top", size=11, family="monospace")
    figure.text(0.66, 0.890, "Y = X W\nThree tokens, three neurons,\none output.", va="top", size=11)
    y = 0.818
    for i, (heading, words, space, height) in enumerate(QUESTIONS):
        put(y, heading, size=12, weight="bold")
        put(y - 0.022, words, size=9.5)
        looks = {"size": 10, "family": "monospace"} if i == 3 or (filled and i == 1) else {"size": 10}
        under = 0.050 + 0.015 * words.count("\n")
        put(y - under, filled[i] if filled else space, color="#a03000" if filled else "black", **looks)
        y -= height
    return figure


def write(path: Path) -> Path:
    """Both pages as a PDF. Raises InputError where none can be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    check_output(path, overwrite=True)
    sheets = (
        (
            "Three neurons, by hand",
            "Lesson 02, before the notebook is run. A pencil is enough: 15 minutes, in pairs.",
            None,
        ),
        (
            "Three neurons, by hand: answers",
            "For whoever teaches. Section 1 and 2 of the notebook check them.",
            answers(),
        ),
    )
    with PdfPages(path, metadata=METADATA) as pdf:
        for sheet in sheets:
            figure = page(*sheet)
            pdf.savefig(figure)
            plt.close(figure)
    return path


if __name__ == "__main__":
    try:
        print(write(Path(sys.argv[1] if len(sys.argv) > 1 else "build/worksheet.pdf")))
    except InputError as error:
        sys.exit(str(error))
