"""Last words of sentences from evaluation.txt, each against three others: writes cloze.jsonl beside this file.

    python data/tasks/make_cloze.py

An item is a passage that breaks off before the last word of a sentence, and four words to end it with: the one that
was there, and last words of sentences in other pieces of the same text. These end in the same letters (a rough
sign of the same word class), are about as long and about as frequent, and stand nowhere in the answer's own piece.
So all four fit the place in form, and only reading the passage tells which one it was.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from pathlib import Path

SEED = 0
ITEMS = 300
CONTEXT = 40  # words at most before the gap
LEAST = 12  # and at least
NEAREST = 12  # candidates among which three distractors are drawn
ENDINGS = ("ing", "ed", "ly", "s")
HERE = Path(__file__).parent


def ending(word: str) -> str:
    return next((end for end in ENDINGS if word.endswith(end)), "")


def gaps(piece: str) -> list[tuple[str, str]]:
    """(passage, last word) of every sentence that ends in a plain word of four letters or more."""
    found = []
    for paragraph in piece.strip().split("\n")[1:]:  # the first line is the title
        words = paragraph.split()
        for place, word in enumerate(words):
            bare = re.fullmatch(r"([a-z]{4,})[.?!]", word)
            if bare and place >= LEAST:
                found.append((" ".join(words[max(0, place - CONTEXT) : place]), bare[1]))
    return found


def rows(text: str) -> list[dict]:
    """ITEMS items, spread evenly over the text; no answer twice in one piece."""
    pieces = text.strip().split("\n\n\n")
    vocabularies = [set(re.findall(r"[a-z]+", piece.lower())) for piece in pieces]
    counts = Counter(re.findall(r"[a-z]+", text.lower()))
    places = [(index, passage, word) for index, piece in enumerate(pieces) for passage, word in gaps(piece)]
    homes: dict[str, set[int]] = {}
    for index, _, word in places:
        homes.setdefault(word, set()).add(index)
    draw = random.Random(SEED)  # only random(), whose sequence Python guarantees

    def distance(one: str, other: str) -> tuple[float, str]:
        return abs(len(one) - len(other)) + abs(math.log2(counts[one] / counts[other])), other

    found, used = [], set()
    for index, passage, word in places:
        if (index, word) in used or re.search(rf"\b{word}\b", passage.lower()):
            continue
        used.add((index, word))
        others = [
            other for other in homes if other not in vocabularies[index] and ending(other) == ending(word)
        ]
        near = sorted(others, key=lambda other, word=word: distance(word, other))[:NEAREST]
        if len(near) < NEAREST:
            continue
        choices = [word, *(near.pop(int(draw.random() * len(near))) for _ in range(3))]
        label = int(draw.random() * 4)
        choices[0], choices[label] = choices[label], choices[0]
        found.append({"passage": passage, "choices": choices, "label": label})
    return [found[int(place * len(found) / ITEMS)] for place in range(ITEMS)]


def files() -> dict[str, str]:
    """Name and content of the file that this script writes."""
    text = (HERE.parent / "evaluation.txt").read_text("utf-8")
    return {"cloze.jsonl": "\n".join(json.dumps(row) for row in rows(text)) + "\n"}


if __name__ == "__main__":
    for name, content in files().items():
        (HERE / name).write_text(content, encoding="utf-8", newline="\n")
