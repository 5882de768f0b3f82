"""Minimal pairs of English grammar: writes grammar.jsonl and one lm-eval task for each phenomenon beside this file.

    python data/tasks/make_grammar.py

Each phenomenon is a function that draws one pair (right, wrong): two sentences that differ in nothing but what the
phenomenon is about. Most draw both directions (singular and plural, past and future), so that a mere preference for
a word, or for a shorter sentence, cancels. The answer's place is drawn too: a model that ties gets chance, not all.

Templates and words were made up for this file. Standard English; nothing rests on what only some dialects allow.
Only `random.random()` is used, the one generator method whose sequence Python guarantees to keep.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import vocabulary as words

SEED = 0
PAIRS = 50
HERE = Path(__file__).parent
PREFIX = "comp_grammar"


class Draw:
    """Random choices for one phenomenon: `draw(words)` is one of them."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def __call__(self, options):
        return options[int(self.random.random() * len(options))]

    def flip(self) -> bool:
        return self.random.random() < 0.5


def plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    if noun.endswith("man"):
        return f"{noun[:-3]}men"
    return "wives" if noun == "wife" else f"{noun}s"


def third(verb: str) -> str:
    return words.THIRD.get(verb, f"{verb}s")


def counted(noun: str, many: bool) -> str:
    return plural(noun) if many else noun


def pair(template: str, right: str, wrong: str) -> tuple[str, str]:
    """`template` with its `*` replaced by either, and a capital in front."""
    made = (template.replace("*", word) for word in (right, wrong))
    return tuple(sentence[0].upper() + sentence[1:] for sentence in made)


def verb_forms(draw: Draw, many: bool) -> tuple[str, str]:
    """(right, wrong) of a verb for a subject that is one or many, with what follows it."""
    if draw.flip():
        right, wrong = ("are", "is") if many else ("is", "are")
        mood = draw(words.MOODS)
        return f"{right} {mood}", f"{wrong} {mood}"
    verb, place = draw(words.DOINGS), draw(words.PLACES)
    right, wrong = (verb, third(verb)) if many else (third(verb), verb)
    return f"{right} {place}", f"{wrong} {place}"


# --- phenomena --------------------------------------------------------------------------------------------------------


def agreement_adjacent(draw: Draw) -> tuple[str, str]:
    """The verb agrees with the noun before it."""
    many = draw.flip()
    return pair(f"the {counted(draw(words.PEOPLE), many)} *.", *verb_forms(draw, many))


def agreement_attractor(draw: Draw) -> tuple[str, str]:
    """The verb agrees with the head, not with the noun of the other number in between."""
    many = draw.flip()
    head, joint, other = draw(words.JOINED)
    right, wrong = draw([("is", "are"), ("was", "were")])[:: -1 if many else 1]
    return pair(
        f"the {counted(head, many)} {joint} {counted(other, not many)} * {draw(words.DESCRIPTIONS)}.",
        right,
        wrong,
    )


def agreement_relative(draw: Draw) -> tuple[str, str]:
    """The verb agrees with the head across a relative clause."""
    many = draw.flip()
    head, other = counted(draw(words.PEOPLE), many), draw(["me", "you", "us", "them", *words.NAMES])
    return pair(f"the {head} who {draw(words.THANKS)} {other} *.", *verb_forms(draw, many))


def determiner_noun(draw: Draw) -> tuple[str, str]:
    """This and that with one, these and those with many."""
    many, noun = draw.flip(), draw(words.THINGS)
    determiner = draw(["these", "those"] if many else ["this", "that"])
    verb = draw(["bought", "sold", "found", "borrowed", "repaired", "cleaned", "carried", "brought"])
    return pair(
        f"{draw(words.NAMES)} {verb} {determiner} * {draw(words.PAST)}.",
        counted(noun, many),
        counted(noun, not many),
    )


def existential_there(draw: Draw) -> tuple[str, str]:
    """After "there", the verb agrees with what follows."""
    many = draw.flip()
    right, wrong = draw([("is", "are"), ("was", "were")])[:: -1 if many else 1]
    how_many = draw(
        ["three", "several", "many", "some", "two"] if many else ["a", "one", "another", "only one"]
    )
    return pair(
        f"there * {how_many} {counted(draw(words.THINGS + words.PEOPLE), many)} {draw(words.PLACES)}.",
        right,
        wrong,
    )


def article_form(draw: Draw) -> tuple[str, str]:
    """An before a vowel sound, a before a consonant sound."""
    vowel = draw.flip()
    what = draw(words.VOWEL if vowel else words.CONSONANT)
    if draw.flip():
        what = f"{draw(words.VOWEL_ADJECTIVES if vowel else words.CONSONANT_ADJECTIVES)} {draw(words.THINGS)}"
    where = draw(["saw", "found", "drew", "dreamed of", "wrote about", "talked about"])
    return pair(
        f"{draw(words.NAMES)} {where} * {what} {draw(words.PAST)}.", *(("an", "a") if vowel else ("a", "an"))
    )


def mass_count(draw: Draw) -> tuple[str, str]:
    """Much and little of a mass, many and few of what can be counted."""
    mass = draw.flip()
    what = draw(words.MASS) if mass else plural(draw(words.THINGS))
    template, forms = draw(
        [
            ("{} did not have * {} {}.", ("much", "many")),
            ("{} had too * {} {}.", ("much", "many")),
            ("{} asked for a * {} {}.", ("little", "few")),
            ("{} had so * {} {}.", ("much", "many")),
        ]
    )
    return pair(template.format(draw(words.NAMES), what, draw(words.PAST)), *forms[:: 1 if mass else -1])


def reflexive_gender(draw: Draw) -> tuple[str, str]:
    """Himself or herself, by the subject, whoever else is named."""
    (own, other), right, wrong = ((words.WOMEN, words.MEN), "herself", "himself")
    if draw.flip():
        own, other, right, wrong = other, own, wrong, right
    who = f"the {draw(own)}"
    if draw.flip():
        who += f" who {draw(words.THANKS)} the {draw(other)}"
    return pair(f"{who} {draw(words.SELF)} * {draw(words.PLACES)}.", right, wrong)


def reflexive_number(draw: Draw) -> tuple[str, str]:
    """Themselves for many; for one whose gender is known, himself or herself."""
    group, single = draw([(words.MEN, "himself"), (words.WOMEN, "herself")])
    many = draw.flip()
    who = f"the {counted(draw(group), many)}"
    if draw.flip():
        who += f" who {draw(words.THANKS)} the {counted(draw(words.PEOPLE), not many)}"
    return pair(
        f"{who} {draw(words.SELF)} * {draw(words.PLACES)}.", *("themselves", single)[:: 1 if many else -1]
    )


def pronoun_case(draw: Draw) -> tuple[str, str]:
    """He as subject, him as object and after a preposition."""
    subject, other = draw(words.CASES)
    if draw.flip():
        _, past, _, _, objects = draw(words.DEEDS)
        return pair(f"* {past} the {draw(objects)} {draw(words.PAST)}.", subject, other)
    verb = draw(words.THANKS + words.BEFORE)
    return pair(f"the {draw(words.PEOPLE)} {verb} * {draw(words.PLACES)}.", other, subject)


def past_participle(draw: Draw) -> tuple[str, str]:
    """Has written and was written, but wrote."""
    past, participle, objects = draw(words.IRREGULAR)
    who, what = draw(words.PEOPLE), draw(objects)
    if draw.flip():
        return pair(f"the {who} * the {what} {draw(words.PAST)}.", past, participle)
    if draw.flip():
        return pair(f"the {what} was * by the {who}.", participle, past)
    return pair(f"the {who} {draw(['has', 'had'])} already * the {what}.", participle, past)


def bare_verb(draw: Draw) -> tuple[str, str]:
    """The bare verb after can, will, must, did not."""
    base, past, _, _, objects = draw(words.DEEDS)
    auxiliary = draw(["can", "will", "must", "should", "did not", "could not", "might", "cannot"])
    wrong = draw([third(base), third(base) if base == "find" else past])  # to found is a verb of its own
    return pair(f"the {draw(words.PEOPLE)} {auxiliary} * the {draw(objects)}.", base, wrong)


def polarity(draw: Draw) -> tuple[str, str]:
    """Ever and any only in the reach of a negative word."""
    _, past, participle, _, objects = draw(words.DEEDS)
    what = draw(objects)
    right, wrong = draw([("no", "the"), ("nobody", "somebody"), ("few", "some")])
    if right == "few":
        return pair(f"* {plural(draw(words.PEOPLE))} have ever {participle} the {what}.", right, wrong)
    who = f"* {draw(words.PEOPLE)}" if right == "no" else f"* {draw(words.PLACES)}"
    rest = f"has ever {participle} the {what}" if draw.flip() else f"{past} any {plural(what)}"
    return pair(f"{who} {rest}.", right, wrong)


def filler_gap(draw: Draw) -> tuple[str, str]:
    """What needs a gap, that must have none."""
    start, who, verb = (
        f"{draw(words.NAMES)} {draw(words.KNOWING)}",
        draw(words.PEOPLE),
        draw(words.TRANSITIVE),
    )
    if draw.flip():
        return pair(f"{start} * the {who} {verb} {draw(words.PAST)}.", "what", "that")
    return pair(f"{start} * the {who} {verb} the {draw(words.THINGS)} {draw(words.PAST)}.", "that", "what")


def transitivity(draw: Draw) -> tuple[str, str]:
    """An object only after a verb that takes one."""
    right, wrong, objects = draw(words.OBJECTS)
    return pair(f"the {draw(words.PEOPLE)} * the {draw(objects)} {draw(words.PAST)}.", right, wrong)


def comparative(draw: Draw) -> tuple[str, str]:
    """Brighter than, as bright as, more useful than."""
    first, second = draw(words.THINGS), draw(words.THINGS)
    template = f"this {first} is {{}} that {second}."
    if draw.flip():
        return pair(template.format(f"* {draw(words.LONG)} than"), "more", draw(["most", "as"]))
    base, more = draw(words.SHORT)
    if draw.flip():
        return pair(template.format("* than"), more, base)
    return pair(template.format("as * as"), base, more)


def complement_form(draw: Draw) -> tuple[str, str]:
    """Enjoys doing, but wants to do."""
    base, _, _, ing, objects = draw(words.DEEDS)
    forms = (ing, f"to {base}")
    verb, forms = (draw(words.GERUND), forms) if draw.flip() else (draw(words.INFINITIVE), forms[::-1])
    return pair(f"the {draw(words.PEOPLE)} {verb} * the {draw(objects)}.", *forms)


def inversion(draw: Draw) -> tuple[str, str]:
    """In a question the auxiliary comes before the subject."""
    base, _, _, _, objects = draw(words.DEEDS[:-1])  # where one visits a place is no question
    who, auxiliary = f"the {draw(words.PEOPLE)}", draw(["did", "will", "can", "should", "must"])
    word = draw(["where", "when", "why", "how"])
    return pair(f"{word} * {base} the {draw(objects)}?", f"{auxiliary} {who}", f"{who} {auxiliary}")


def tense_adverb(draw: Draw) -> tuple[str, str]:
    """Yesterday for what was, tomorrow for what will be."""
    base, past, _, _, objects = draw(words.DEEDS)
    which = int(draw.random.random() * len(words.PAST))
    verb, times = (
        (past, (words.PAST, words.FUTURE)) if draw.flip() else (f"will {base}", (words.FUTURE, words.PAST))
    )
    return pair(f"the {draw(words.PEOPLE)} {verb} the {draw(objects)} *.", *(time[which] for time in times))


def relative_pronoun(draw: Draw) -> tuple[str, str]:
    """Who for people, which for things."""
    if draw.flip():
        verb = draw(["lives", "works", "lived", "worked", "sang", "waited"])
        return pair(
            f"{draw(words.NAMES)} knows the {draw(words.PEOPLE)} * {verb} {draw(words.PLACES)}.",
            "who",
            "which",
        )
    return pair(
        f"{draw(words.NAMES)} bought the {draw(words.THINGS)} * {draw(words.STANDING)} {draw(words.PLACES)}.",
        "which",
        "who",
    )


PHENOMENA: tuple[Callable[[Draw], tuple[str, str]], ...] = (
    agreement_adjacent,
    agreement_attractor,
    agreement_relative,
    determiner_noun,
    existential_there,
    article_form,
    mass_count,
    reflexive_gender,
    reflexive_number,
    pronoun_case,
    past_participle,
    bare_verb,
    polarity,
    filler_gap,
    transitivity,
    comparative,
    complement_form,
    inversion,
    tense_adverb,
    relative_pronoun,
)


def rows(phenomenon: Callable[[Draw], tuple[str, str]]) -> list[dict]:
    """PAIRS pairs in which no sentence comes twice."""
    draw, seen, found = Draw(f"{SEED} {phenomenon.__name__}"), set(), []
    while len(found) < PAIRS:
        right, wrong = phenomenon(draw)
        if right in seen or wrong in seen:
            continue
        seen |= {right, wrong}
        label = int(draw.flip())
        choices = [wrong, right] if label else [right, wrong]
        found.append({"phenomenon": phenomenon.__name__, "choices": choices, "label": label})
    return found


def files() -> dict[str, str]:
    """Name and content of every file that this script writes."""
    lines = [json.dumps(row) for phenomenon in PHENOMENA for row in rows(phenomenon)]
    made = {"grammar.jsonl": "\n".join(lines) + "\n"}
    for phenomenon in PHENOMENA:
        name = phenomenon.__name__
        made[f"grammar_{name}.yaml"] = (
            f"# {phenomenon.__doc__}\n"
            f"task: {PREFIX}_{name}\n"
            "include: _grammar_template\n"
            f"dataset_kwargs: {{file: grammar.jsonl, phenomenon: {name}}}\n"
        )
    members = "".join(f"  - {PREFIX}_{phenomenon.__name__}\n" for phenomenon in PHENOMENA)
    made["grammar.yaml"] = (
        f"group: {PREFIX}\ntask:\n{members}"
        "aggregate_metric_list:\n"
        "  - {metric: acc, aggregation: mean, weight_by_size: true}\n"
        "  - {metric: acc_norm, aggregation: mean, weight_by_size: true}\n"
        "metadata: {version: 1.0}\n"
    )
    return made


if __name__ == "__main__":
    for name, content in files().items():
        (HERE / name).write_text(content, encoding="utf-8", newline="\n")
