"""Wrong answers to what the reader writes in lesson 07, and what their checks say to each."""

PAIRED = """\
def paired(ours, theirs):
    gap = {gap}
    half = {half}
    return float(gap.mean()), float(gap.mean() - half), float(gap.mean() + half)
"""
RIGHT_GAP = "ours - theirs"
RIGHT_HALF = "stats.t.ppf(0.975, len(gap) - 1) * gap.std() / len(gap) ** 0.5"

WRONG = {
    "paired": {
        "the sign is the other one": PAIRED.format(gap="theirs - ours", half=RIGHT_HALF),
        "divide by the root of their number": PAIRED.format(
            gap=RIGHT_GAP, half="stats.t.ppf(0.975, len(gap) - 1) * gap.std()"
        ),
        "divide by the root of S for the mean, not by S": PAIRED.format(
            gap=RIGHT_GAP, half=RIGHT_HALF.replace("len(gap) ** 0.5", "len(gap)")
        ),
        "take Student's t": PAIRED.format(
            gap=RIGHT_GAP, half="1.959963984540054 * gap.std() / len(gap) ** 0.5"
        ),
        "a 90% interval": PAIRED.format(gap=RIGHT_GAP, half=RIGHT_HALF.replace("0.975", "0.95")),
        "not by S": PAIRED.format(gap=RIGHT_GAP, half=RIGHT_HALF.replace("std()", "std(correction=0)")),
        "is it that of the differences": PAIRED.format(
            gap=RIGHT_GAP, half=RIGHT_HALF.replace("gap.std()", "(ours.std() + theirs.std())")
        ),
        "subtract first, window by window": PAIRED.format(
            gap=RIGHT_GAP, half=RIGHT_HALF.replace("gap.std()", "(ours.var() + theirs.var()) ** 0.5")
        ),
        "expected three numbers": "def paired(ours, theirs):\n    return float((ours - theirs).mean())",
        "the low end lies above": PAIRED.format(gap=RIGHT_GAP, half=f"-({RIGHT_HALF})"),
    },
    "verdict": {
        "holds 0, so nothing is found": """\
def verdict(low, high):
    return "ours loses less" if low + high < 0 else "theirs loses less"
""",
        "the other way round": """\
def verdict(low, high):
    if low <= 0 <= high:
        return "no difference found"
    return "ours loses less" if low > 0 else "theirs loses less"
""",
        "lies on one side of 0": """\
def verdict(low, high):
    return "no difference found"
""",
        "expected one of the three texts": """\
def verdict(low, high):
    return "differs"
""",
    },
}
