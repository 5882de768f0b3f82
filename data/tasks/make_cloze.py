"""Last words of sentences in evaluation.txt, each against three others: writes cloze.jsonl to this folder.

    python data/tasks/make_cloze.py

An item is a passage that breaks off before the last word of a sentence, and four words to end it with: the
one that was there, and last words of sentences in other pieces of the same text. These end in the same
letters (a rough sign of the same word class), are about as long and about as frequent, and stand nowhere in
the answer's own piece. So all four fit the gap in form, and only a reader of the passage can tell the right
one.
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
LONGEST_PASSAGE = 40  # words before the gap
SHORTEST_PASSAGE = 12
CANDIDATES = 12  # words most like the answer, of which three are drawn as distractors
ENDINGS = ("ing", "ed", "ly", "s")
FOLDER = Path(__file__).parent


def ending(word: str) -> str:
    """The one of ENDINGS that the word ends in; "" where there is none."""
    return next((end for end in ENDINGS if word.endswith(end)), "")


def gaps(piece: str) -> list[tuple[str, str]]:
    """(passage, last word) of every sentence that ends in a plain word of four letters or more."""
    passages = []
    for paragraph in piece.strip().split("\n")[1:]:  # the first line is the title
        tokens = paragraph.split()
        for index, token in enumerate(tokens):
            last_word = re.fullmatch(r"([a-z]{4,})[.?!]", token)
            if last_word and index >= SHORTEST_PASSAGE:
                start = max(0, index - LONGEST_PASSAGE)
                passages.append((" ".join(tokens[start:index]), last_word[1]))
    return passages


def rows(text: str) -> list[dict]:
    """ITEMS items, spread evenly over the text; no answer twice in one piece."""
    pieces = text.strip().split("\n\n\n")
    vocabularies = [set(re.findall(r"[a-z]+", piece.lower())) for piece in pieces]
    counts = Counter(re.findall(r"[a-z]+", text.lower()))
    passages = []  # (number of the piece, passage, last word)
    for index, piece in enumerate(pieces):
        passages += [(index, passage, word) for passage, word in gaps(piece)]
    last_words = list(dict.fromkeys(word for _, _, word in passages))
    generator = random.Random(SEED)  # only random(), whose sequence Python guarantees

    def distance(word: str, candidate: str) -> tuple[float, str]:
        """How unlike two words are in length and frequency; ties go by the alphabet."""
        lengths = abs(len(word) - len(candidate))
        frequencies = abs(math.log2(counts[word] / counts[candidate]))
        return lengths + frequencies, candidate

    items = []
    used = set()
    for index, passage, word in passages:
        if (index, word) in used or re.search(rf"\b{word}\b", passage.lower()):
            continue
        used.add((index, word))
        candidates = []
        for candidate in last_words:
            if candidate not in vocabularies[index] and ending(candidate) == ending(word):
                candidates.append(candidate)
        candidates.sort(key=lambda candidate, word=word: distance(word, candidate))
        nearest = candidates[:CANDIDATES]
        if len(nearest) < CANDIDATES:
            continue
        choices = [word]
        for _ in range(3):
            choices.append(nearest.pop(int(generator.random() * len(nearest))))
        label = int(generator.random() * 4)
        choices[0], choices[label] = choices[label], choices[0]
        items.append({"passage": passage, "choices": choices, "label": label})
    return [items[int(number * len(items) / ITEMS)] for number in range(ITEMS)]


def files() -> dict[str, str]:
    """Name and content of the file that this script writes."""
    text = (FOLDER.parent / "evaluation.txt").read_text("utf-8")
    return {"cloze.jsonl": "\n".join(json.dumps(row) for row in rows(text)) + "\n"}


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8", newline="\n")
