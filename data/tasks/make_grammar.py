"""Minimal pairs of English grammar: writes grammar.jsonl and a task of lm-eval for each phenomenon.

    python data/tasks/make_grammar.py

The files are written beside this one. Each phenomenon is a function that draws one pair (right, wrong): two
sentences that differ in nothing but what the phenomenon is about. Most draw both directions (singular and
plural, past and future), so that a mere preference for a word, or for a shorter sentence, cancels. The
position of the right sentence is drawn too: a model that ties gets chance, not all.

Templates and words were made up for this file. They are standard English; nothing rests on what only some
dialects allow. Only `random.random()` is used, the one generator method whose sequence Python guarantees to
keep.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import vocabulary as words

SEED = 0
PAIRS = 50
FOLDER = Path(__file__).parent
PREFIX = "comp_grammar"
BE_FORMS = [("is", "are"), ("was", "were")]  # of "to be": for one, for many


class Draw:
    """Random choices for one phenomenon: `draw(words)` is one of them."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def __call__(self, options):
        return options[int(self.random.random() * len(options))]

    def flip(self) -> bool:
        """True in half of all calls."""
        return self.random.random() < 0.5


def plural(noun: str) -> str:
    """The plural of a noun."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    if noun.endswith("man"):
        return f"{noun[:-3]}men"
    return "wives" if noun == "wife" else f"{noun}s"


def third(verb: str) -> str:
    """The third person singular of a verb."""
    return words.THIRD.get(verb, f"{verb}s")


def counted(noun: str, many: bool) -> str:
    """The noun in the plural if there are many, else in the singular."""
    return plural(noun) if many else noun


def pair(template: str, right: str, wrong: str) -> tuple[str, str]:
    """`template` with its `*` replaced by either, and a capital in front."""
    return capitalised(template.replace("*", right)), capitalised(template.replace("*", wrong))


def capitalised(sentence: str) -> str:
    """The sentence with a capital in front, and the rest as it is."""
    return sentence[0].upper() + sentence[1:]


def pair_by_case(template: str, is_first: bool, first: str, second: str) -> tuple[str, str]:
    """The pair in which `first` is right if `is_first`, and otherwise `second`."""
    return pair(template, first, second) if is_first else pair(template, second, first)


def verb_forms(draw: Draw, many: bool) -> tuple[str, str]:
    """(right, wrong) of a verb for a subject that is one or many, with what follows it."""
    if draw.flip():
        plural_form = "are"
        singular_form = "is"
        rest = draw(words.MOODS)
    else:
        plural_form = draw(words.DOINGS)
        singular_form = third(plural_form)
        rest = draw(words.PLACES)
    plural_end = f"{plural_form} {rest}"
    singular_end = f"{singular_form} {rest}"
    return (plural_end, singular_end) if many else (singular_end, plural_end)


# --- phenomena ----------------------------------------------------------------------------------------------


def agreement_adjacent(draw: Draw) -> tuple[str, str]:
    """The verb agrees with the noun before it."""
    many = draw.flip()
    return pair(f"the {counted(draw(words.PEOPLE), many)} *.", *verb_forms(draw, many))


def agreement_attractor(draw: Draw) -> tuple[str, str]:
    """The verb agrees with the head, not with the noun of the other number in between."""
    many = draw.flip()
    head, joint, attractor = draw(words.JOINED)
    singular_form, plural_form = draw(BE_FORMS)
    subject = f"the {counted(head, many)} {joint} {counted(attractor, not many)}"
    return pair_by_case(f"{subject} * {draw(words.DESCRIPTIONS)}.", many, plural_form, singular_form)


def agreement_relative(draw: Draw) -> tuple[str, str]:
    """The verb agrees with the head across a relative clause."""
    many = draw.flip()
    head = counted(draw(words.PEOPLE), many)
    attractor = draw(["me", "you", "us", "them", *words.NAMES])
    return pair(f"the {head} who {draw(words.THANKS)} {attractor} *.", *verb_forms(draw, many))


def determiner_noun(draw: Draw) -> tuple[str, str]:
    """This and that with one, these and those with many."""
    many = draw.flip()
    noun = draw(words.THINGS)
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
    singular_form, plural_form = draw(BE_FORMS)
    plural_counts = ["three", "several", "many", "some", "two"]
    singular_counts = ["a", "one", "another", "only one"]
    count = draw(plural_counts if many else singular_counts)
    noun = counted(draw(words.THINGS + words.PEOPLE), many)
    return pair_by_case(f"there * {count} {noun} {draw(words.PLACES)}.", many, plural_form, singular_form)


def article_form(draw: Draw) -> tuple[str, str]:
    """An before a vowel sound, a before a consonant sound."""
    vowel = draw.flip()
    noun = draw(words.VOWEL if vowel else words.CONSONANT)
    if draw.flip():
        adjective = draw(words.VOWEL_ADJECTIVES if vowel else words.CONSONANT_ADJECTIVES)
        noun = f"{adjective} {draw(words.THINGS)}"
    verb = draw(["saw", "found", "drew", "dreamed of", "wrote about", "talked about"])
    return pair_by_case(f"{draw(words.NAMES)} {verb} * {noun} {draw(words.PAST)}.", vowel, "an", "a")


def mass_count(draw: Draw) -> tuple[str, str]:
    """Much and little of a mass, many and few of what can be counted."""
    mass = draw.flip()
    noun = draw(words.MASS) if mass else plural(draw(words.THINGS))
    template, mass_form, count_form = draw(
        [
            ("{} did not have * {} {}.", "much", "many"),
            ("{} had too * {} {}.", "much", "many"),
            ("{} asked for a * {} {}.", "little", "few"),
            ("{} had so * {} {}.", "much", "many"),
        ]
    )
    sentence = template.format(draw(words.NAMES), noun, draw(words.PAST))
    return pair_by_case(sentence, mass, mass_form, count_form)


def reflexive_gender(draw: Draw) -> tuple[str, str]:
    """Himself or herself, by the subject, whoever else is named."""
    male = draw.flip()
    people = words.MEN if male else words.WOMEN
    attractors = words.WOMEN if male else words.MEN
    subject = f"the {draw(people)}"
    if draw.flip():
        subject += f" who {draw(words.THANKS)} the {draw(attractors)}"
    return pair_by_case(f"{subject} {draw(words.SELF)} * {draw(words.PLACES)}.", male, "himself", "herself")


def reflexive_number(draw: Draw) -> tuple[str, str]:
    """Themselves for many; for one whose gender is known, himself or herself."""
    people, singular_form = draw([(words.MEN, "himself"), (words.WOMEN, "herself")])
    many = draw.flip()
    subject = f"the {counted(draw(people), many)}"
    if draw.flip():
        subject += f" who {draw(words.THANKS)} the {counted(draw(words.PEOPLE), not many)}"
    return pair_by_case(
        f"{subject} {draw(words.SELF)} * {draw(words.PLACES)}.", many, "themselves", singular_form
    )


def pronoun_case(draw: Draw) -> tuple[str, str]:
    """He as subject, him as object and after a preposition."""
    subject_form, object_form = draw(words.CASES)
    if draw.flip():
        _, past, _, _, objects = draw(words.DEEDS)
        return pair(f"* {past} the {draw(objects)} {draw(words.PAST)}.", subject_form, object_form)
    verb = draw(words.THANKS + words.BEFORE)
    return pair(f"the {draw(words.PEOPLE)} {verb} * {draw(words.PLACES)}.", object_form, subject_form)


def past_participle(draw: Draw) -> tuple[str, str]:
    """Has written and was written, but wrote."""
    past, participle, objects = draw(words.IRREGULAR)
    person = draw(words.PEOPLE)
    thing = draw(objects)
    if draw.flip():
        return pair(f"the {person} * the {thing} {draw(words.PAST)}.", past, participle)
    if draw.flip():
        return pair(f"the {thing} was * by the {person}.", participle, past)
    return pair(f"the {person} {draw(['has', 'had'])} already * the {thing}.", participle, past)


def bare_verb(draw: Draw) -> tuple[str, str]:
    """The bare verb after can, will, must, did not."""
    base, past, _, _, objects = draw(words.DEEDS)
    auxiliary = draw(["can", "will", "must", "should", "did not", "could not", "might", "cannot"])
    wrong_past = third(base) if base == "find" else past  # to found is a verb of its own
    wrong = draw([third(base), wrong_past])
    return pair(f"the {draw(words.PEOPLE)} {auxiliary} * the {draw(objects)}.", base, wrong)


def polarity(draw: Draw) -> tuple[str, str]:
    """Ever and any only in the reach of a negative word."""
    _, past, participle, _, objects = draw(words.DEEDS)
    thing = draw(objects)
    right, wrong = draw([("no", "the"), ("nobody", "somebody"), ("few", "some")])
    if right == "few":
        return pair(f"* {plural(draw(words.PEOPLE))} have ever {participle} the {thing}.", right, wrong)
    subject = f"* {draw(words.PEOPLE if right == 'no' else words.PLACES)}"
    rest = f"has ever {participle} the {thing}" if draw.flip() else f"{past} any {plural(thing)}"
    return pair(f"{subject} {rest}.", right, wrong)


def filler_gap(draw: Draw) -> tuple[str, str]:
    """What needs a gap, that must have none."""
    start = f"{draw(words.NAMES)} {draw(words.KNOWING)}"
    person = draw(words.PEOPLE)
    verb = draw(words.TRANSITIVE)
    if draw.flip():
        return pair(f"{start} * the {person} {verb} {draw(words.PAST)}.", "what", "that")
    return pair(f"{start} * the {person} {verb} the {draw(words.THINGS)} {draw(words.PAST)}.", "that", "what")


def transitivity(draw: Draw) -> tuple[str, str]:
    """An object only after a verb that takes one."""
    right, wrong, objects = draw(words.OBJECTS)
    return pair(f"the {draw(words.PEOPLE)} * the {draw(objects)} {draw(words.PAST)}.", right, wrong)


def comparative(draw: Draw) -> tuple[str, str]:
    """Brighter than, as bright as, more useful than."""
    first = draw(words.THINGS)
    second = draw(words.THINGS)
    template = f"this {first} is {{}} that {second}."
    if draw.flip():
        return pair(template.format(f"* {draw(words.LONG)} than"), "more", draw(["most", "as"]))
    base, comparative_form = draw(words.SHORT)
    if draw.flip():
        return pair(template.format("* than"), comparative_form, base)
    return pair(template.format("as * as"), base, comparative_form)


def complement_form(draw: Draw) -> tuple[str, str]:
    """Enjoys doing, but wants to do."""
    base, _, _, gerund, objects = draw(words.DEEDS)
    takes_gerund = draw.flip()
    verb = draw(words.GERUND if takes_gerund else words.INFINITIVE)
    sentence = f"the {draw(words.PEOPLE)} {verb} * the {draw(objects)}."
    return pair_by_case(sentence, takes_gerund, gerund, f"to {base}")


def inversion(draw: Draw) -> tuple[str, str]:
    """In a question the auxiliary comes before the subject."""
    base, _, _, _, objects = draw(words.DEEDS[:-1])  # where one visits a place is no question
    subject = f"the {draw(words.PEOPLE)}"
    auxiliary = draw(["did", "will", "can", "should", "must"])
    question_word = draw(["where", "when", "why", "how"])
    sentence = f"{question_word} * {base} the {draw(objects)}?"
    return pair(sentence, f"{auxiliary} {subject}", f"{subject} {auxiliary}")


def tense_adverb(draw: Draw) -> tuple[str, str]:
    """Yesterday for what was, tomorrow for what will be."""
    base, past, _, _, objects = draw(words.DEEDS)
    past_time, future_time = draw(list(zip(words.PAST, words.FUTURE, strict=True)))
    is_past = draw.flip()
    verb = past if is_past else f"will {base}"
    sentence = f"the {draw(words.PEOPLE)} {verb} the {draw(objects)} *."
    return pair_by_case(sentence, is_past, past_time, future_time)


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
    draw = Draw(f"{SEED} {phenomenon.__name__}")
    sentences: set[str] = set()
    pairs = []
    while len(pairs) < PAIRS:
        right, wrong = phenomenon(draw)
        if right in sentences or wrong in sentences:
            continue
        sentences |= {right, wrong}
        label = int(draw.flip())
        choices = [wrong, right] if label else [right, wrong]
        pairs.append({"phenomenon": phenomenon.__name__, "choices": choices, "label": label})
    return pairs


def files() -> dict[str, str]:
    """Name and content of every file that this script writes."""
    lines = []
    for phenomenon in PHENOMENA:
        lines += [json.dumps(row) for row in rows(phenomenon)]
    contents = {"grammar.jsonl": "\n".join(lines) + "\n"}
    for phenomenon in PHENOMENA:
        name = phenomenon.__name__
        contents[f"grammar_{name}.yaml"] = (
            f"# {phenomenon.__doc__}\n"
            f"task: {PREFIX}_{name}\n"
            "include: _grammar_template\n"
            f"dataset_kwargs: {{file: grammar.jsonl, phenomenon: {name}}}\n"
        )
    members = "".join(f"  - {PREFIX}_{phenomenon.__name__}\n" for phenomenon in PHENOMENA)
    contents["grammar.yaml"] = (
        f"group: {PREFIX}\ntask:\n{members}"
        "aggregate_metric_list:\n"
        "  - {metric: acc, aggregation: mean, weight_by_size: true}\n"
        "  - {metric: acc_norm, aggregation: mean, weight_by_size: true}\n"
        "metadata: {version: 1.0}\n"
    )
    return contents


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8", newline="\n")
