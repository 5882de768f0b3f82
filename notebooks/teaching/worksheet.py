"""The three-neuron toy on paper: `python notebooks/teaching/worksheet.py build/worksheet.pdf`

Two pages to print: the sheet that learners fill in, with a pencil, before lesson 02 is run, and the answers
for whoever teaches. The numbers on both come from X and W below, which are the lesson's own (a test
compares).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from comp_lib.utils.errors import InputError
from comp_lib.utils.files import checked_new_file

X = ((2.0, 1.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 2.0))  # (T, n): three tokens, three neurons
W = ((1.0,), (2.0,), (0.5,))  # (n, d): one output
LOUDNESS = 10.0  # times as large become the first two tokens in the last question
PAPER_SIZE = (8.27, 11.69)  # A4, inches
TITLE = "Three neurons, by hand"
METADATA = {"Title": TITLE, "CreationDate": None}  # no date: the same bytes every time
RED = "#a03000"  # of the answers


@dataclass(frozen=True)
class Toy:
    """All numbers that the sheet asks for."""

    gram: np.ndarray  # G (n, n)
    inverse: np.ndarray  # of G (n, n)
    cost: np.ndarray  # s (n,)
    condition: np.ndarray  # kappa squared (n,)
    factor: float  # of neuron 2 when neuron 1 goes and neuron 3 stays as it is
    error: float  # that is left then


def toy(loudness: float = 1.0) -> Toy:
    """The answers, with the first two tokens multiplied by `loudness`."""
    x = np.array(X) * np.array([[loudness], [loudness], [1.0]])
    w = np.array(W)
    gram = (x.T @ x) * (w @ w.T)
    inverse = np.linalg.inv(gram)
    return Toy(
        gram=gram,
        inverse=inverse,
        cost=1.0 / inverse.diagonal(),
        condition=gram.diagonal() * inverse.diagonal(),
        factor=1.0 + gram[0, 1] / gram[1, 1],
        error=gram[0, 0] - gram[0, 1] ** 2 / gram[1, 1],
    )


def number(value: float) -> str:
    """A number as a person writes it: a whole number or a short fraction.

    >>> number(0.8), number(5.0)
    ('4/5', '5')
    """
    return str(Fraction(float(value)).limit_denominator(100))


def matrix(values: np.ndarray | tuple[tuple[float, ...], ...]) -> str:
    """The rows of a matrix in square brackets, one a line."""
    cells = [[number(value) for value in row] for row in np.array(values).tolist()]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join(f"[ {'  '.join(cell.rjust(width) for cell in row)} ]" for row in cells)


@dataclass(frozen=True)
class Question:
    """A question on the sheet, and the space that is left for its answer."""

    heading: str
    task: str
    height: float  # of all of it, as a share of the page
    space: str = ""  # what stands on the sheet where the answer is to be written
    monospace: bool = False  # whether this space is a table
    monospace_answer: bool = False


QUESTIONS = (
    Question(
        heading="1  What does each neuron add to the output?",
        task="The contribution of neuron $i$ is $a_i = x_i w_i$: column $i$ of X, times row $i$ of W.",
        height=0.115,
        space="$a_1$ = (          ,          ,          )          $a_2$ = (          ,          ,          )"
        "          $a_3$ = (          ,          ,          )",
    ),
    Question(
        heading="2  All inner products: the Gram matrix",
        task="$G_{ij}$ is the inner product of $a_i$ and $a_j$. The energy of neuron $i$ is $G_{ii}$.",
        height=0.165,
        space="G =   [             ,             ,             ]\n\n"
        "        [             ,             ,             ]\n\n"
        "        [             ,             ,             ]",
        monospace_answer=True,
    ),
    Question(
        heading="3  Neuron 1 goes. What is lost?",
        task="(a) if nothing else changes?\n"
        "(b) Neuron 2 may be turned up by a factor $m$. Which $m$ is best, and what is lost then?",
        height=0.130,
        space="(a)  lost:                                        (b)  m =                              lost:",
    ),
    Question(
        heading="4  The cost of every neuron, all others re-tuned",
        task="Use the same idea: what no multiple of the others reaches. Then fill in: "
        "condition squared = energy / cost.",
        height=0.178,
        space="neuron        energy        cost        condition squared\n\n   1\n\n   2\n\n   3",
        monospace=True,
        monospace_answer=True,
    ),
    Question(
        heading="5  One neuron has to go. Which?",
        task="Choose by the least energy, by the highest condition, by the least cost. "
        "Which rule is right, and why?",
        height=0.110,
    ),
    Question(
        heading=f"6  The first two tokens become {LOUDNESS:.0f} times as loud",
        task="What happens to energies, to conditions, to costs? "
        "Which neuron goes now, by each of the three rules?",
        height=0.0,
    ),
)


def choices(numbers: Toy) -> str:
    """Which neuron each of the three rules removes."""
    highest = np.flatnonzero(np.isclose(numbers.condition, numbers.condition.max()))
    return (
        f"least energy: neuron {numbers.gram.diagonal().argmin() + 1};  highest condition: one of neurons "
        f"{' and '.join(str(i + 1) for i in highest)};  least cost: neuron {numbers.cost.argmin() + 1}"
    )


def answers() -> tuple[str, ...]:
    """The answer to each of QUESTIONS."""
    quiet = toy()
    loud = toy(LOUDNESS)
    contributions = (np.array(X) * np.array(W)[:, 0]).T
    vectors = [
        f"$a_{neuron}$ = ({', '.join(map(number, contribution))})"
        for neuron, contribution in enumerate(contributions, 1)
    ]
    rows = [
        f"   {i + 1}            {number(quiet.gram[i, i]):>3}          {number(quiet.cost[i]):>4}"
        f"              {number(quiet.condition[i]):>2}"
        for i in range(3)
    ]
    return (
        "      ".join(vectors),
        matrix(quiet.gram),
        f"(a) its energy, {number(quiet.gram[0, 0])}.   "
        f"(b) m = {number(quiet.factor)} = {quiet.factor:.1f}, and "
        f"{number(quiet.error)} = {quiet.error:.1f} is lost. Neuron 3 cannot help: $G_{{13}}$ is "
        f"{number(quiet.gram[0, 2])}.",
        "\n".join(["neuron        energy        cost        condition squared", *rows]),
        f"{choices(quiet)}.\nNobody can replace neuron 3, though it is the one with the least energy.",
        f"Energies and costs of neurons 1 and 2 grow {LOUDNESS**2:.0f} times, conditions do not change.\n"
        f"{choices(loud)}.\n"
        "Energy fails in the quiet version, condition in the loud one. Their quotient is right both times.",
    )


def page(title: str, subtitle: str, filled: tuple[str, ...] | None) -> Figure:
    """One sheet: the questions with space to write, or with the answers in `filled`."""
    figure = plt.figure(figsize=PAPER_SIZE)

    def put(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x, y, text, va="top", **style)

    left = 0.08
    put(left, 0.965, title, size=17, weight="bold")
    put(left, 0.938, subtitle, size=10)
    put(left, 0.908, "X (tokens x neurons)", size=10)
    put(left, 0.890, matrix(X), size=11, family="monospace")
    put(0.40, 0.908, "W (neurons x outputs)", size=10)
    put(0.40, 0.890, matrix(W), size=11, family="monospace")
    put(0.66, 0.890, "Y = X W\nThree tokens, three neurons,\none output.", size=11)
    y = 0.818
    for i, question in enumerate(QUESTIONS):
        put(left, y, question.heading, size=12, weight="bold")
        put(left, y - 0.022, question.task, size=9.5)
        if filled:
            text = filled[i]
            color = RED
            monospace = question.monospace_answer
        else:
            text = question.space
            color = "black"
            monospace = question.monospace
        style = {"family": "monospace"} if monospace else {}
        below_task = y - (0.050 + 0.015 * question.task.count("\n"))
        put(left, below_task, text, color=color, size=10, **style)
        y -= question.height
    return figure


def write(path: Path) -> Path:
    """Write both pages as a PDF. Raises InputError where none can be written."""
    if path.suffix != ".pdf":
        raise InputError(expected="a name that ends in .pdf", got=repr(path.name), hint="such as w.pdf")
    if path.parent == Path("build"):
        path.parent.mkdir(exist_ok=True)
    checked_new_file(path, overwrite=True)
    subtitle = "Lesson 02, before the notebook is run. A pencil is enough: 15 minutes, in pairs."
    answers_subtitle = "For whoever teaches. Section 1 and 2 of the notebook check them."
    with PdfPages(path, metadata=METADATA) as pdf:
        for figure in (page(TITLE, subtitle, None), page(f"{TITLE}: answers", answers_subtitle, answers())):
            pdf.savefig(figure)
            plt.close(figure)
    return path


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else "build/worksheet.pdf"
    try:
        print(write(Path(target)))
    except InputError as error:
        sys.exit(str(error))
