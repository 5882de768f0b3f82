"""Wrong answers to what the reader writes in lesson 06, and what their checks say to each."""

RECOMMEND = """\
from comp_lib.evaluation.confidence import confidence_interval


def recommend(rises, fresh, limit):
    passed = [ratio for ratio, rise in rises.items() if {passes}]
    chosen = {choice}
    if chosen is None or {fails}:
        return None
    return chosen
"""
PASSES = "confidence_interval(rise)[1] < limit"
LARGEST = "max(passed, default=None)"
FAILS = "confidence_interval(fresh(chosen))[1] >= limit"


def wrong(passes: str = PASSES, choice: str = LARGEST, fails: str = FAILS) -> str:
    return RECOMMEND.format(passes=passes, choice=choice, fails=fails)


WRONG = {
    "recommend": {
        "the mean keeps the limit there": wrong(passes="rise.mean() < limit"),
        "only the low end": wrong(passes="confidence_interval(rise)[0] < limit"),
        "take the largest": wrong(choice="min(passed, default=None)"),
        "were not asked": wrong(fails="False"),
        "it is recommended all the same": wrong(fails="fresh(chosen).mean() >= limit"),
        "has no fresh windows left": wrong(
            passes=f"{PASSES} and confidence_interval(fresh(ratio))[1] < limit"
        ),
        "a second choice needs new windows": """\
from comp_lib.evaluation.confidence import confidence_interval


def recommend(rises, fresh, limit):
    for ratio in sorted(rises, reverse=True):
        if confidence_interval(rises[ratio])[1] < limit and confidence_interval(fresh(ratio))[1] < limit:
            return ratio
    return None
""",
        "then the answer is None": """\
from comp_lib.evaluation.confidence import confidence_interval


def recommend(rises, fresh, limit):
    passed = [ratio for ratio, rise in rises.items() if confidence_interval(rise)[1] < limit]
    chosen = max(passed, default=min(rises))
    return chosen if confidence_interval(fresh(chosen))[1] < limit else None
""",
        "expected one of the ratios": wrong().replace("return chosen", "return True, chosen"),
        "`recommend` returns nothing": wrong().replace("    return chosen\n", ""),
    }
}
