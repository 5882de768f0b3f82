"""What a reader writes in a lesson: a stub in place of each cell with the tag `write`, and ours folded below.

Such a cell holds one function with a docstring that says shapes, and in its body a comment
`# write: SENTENCE`. What stands above the comment is given. What stands below it is the reader's, up to a
line that is indented less.
"""

from __future__ import annotations

import ast
from itertools import dropwhile

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

MARK_TO_WRITE = "# write: "
OURS = """\
# One way to write it. Run this cell to go on: it takes yours if yours passed, else this one.
from course.checking import unless_passed


@unless_passed
"""


def function_to_write(source: str) -> str:
    """The name of the function of a cell with the tag `write`.

    Raises SyntaxError unless the cell is one function with a docstring and one comment `# write: ...`.
    """
    body = ast.parse(source).body
    is_function = len(body) == 1 and isinstance(body[0], ast.FunctionDef)
    if not is_function or ast.get_docstring(body[0]) is None or source.count(MARK_TO_WRITE) != 1:
        raise SyntaxError(
            f"expected one function with a docstring and one line '{MARK_TO_WRITE}SENTENCE', "
            f"got {source[:60]!r}"
        )
    return body[0].name


def stub(source: str) -> str:
    """The function as the reader finds it: it raises NotImplementedError with the sentence of its comment."""
    function_to_write(source)
    lines = source.splitlines()
    number = next(number for number, line in enumerate(lines) if MARK_TO_WRITE in line)
    indent, _, sentence = lines[number].partition(MARK_TO_WRITE)
    below = dropwhile(lambda line: line.startswith(indent) or not line, lines[number + 1 :])
    raised = f'{indent}raise NotImplementedError("write {sentence}")'
    return "\n".join([*lines[:number], raised, *below])


def ours(source: str) -> str:
    """The function as we write it, for the folded cell; a function of the reader's that passed goes first."""
    lines = [line for line in source.splitlines() if MARK_TO_WRITE not in line]
    return OURS + "\n".join(lines)


def with_stubs(lesson: NotebookNode, with_ours: bool = True) -> NotebookNode:
    """A new notebook in which the reader writes; each check is followed by ours, folded, if asked for.

    A check says what is wrong, and JupyterLab's "Run all" does not stop there.
    """
    copied = nbformat.from_dict(lesson)
    cells = []
    folded = None
    for cell in copied.cells:
        tags = cell.metadata.get("tags", [])
        cells.append(cell)
        if "write" in tags:
            if with_ours:
                folded = new_code_cell(
                    ours(cell.source),
                    id=f"{cell.id}-ours",
                    metadata={"jupyter": {"source_hidden": True}, "tags": ["ours"]},
                )
            cell.source = stub(cell.source)
        elif "written" in tags:
            cell.metadata.tags = [*tags, "raises-exception"]
            if folded is not None:
                cells.append(folded)
                folded = None
    copied.cells = cells
    return copied
