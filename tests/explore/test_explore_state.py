"""The state in the address of the page, and the page as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import explore
import measure
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explore.html"

SETTINGS = """
const settings = {
  "costs.ratio": m.numberSetting(0.2, 0, 0.5),
  "costs.way": m.wordSetting("tailored", ["stock", "tailored"]),
  "neurons.arrows": m.listSetting([2, 0], -2, 5, (length) => length === 2),
};
const parts = ["costs", "neurons"];
"""


def read(javascript, fragment):
    return javascript("state.js", f"{SETTINGS} return m.readFragment(data, settings, parts);", fragment)


def test_an_address_without_a_state_is_the_default(javascript):
    for fragment in ("", "#"):
        state = read(javascript, fragment)
        assert state == {
            "part": "",
            "values": {"costs.ratio": 0.2, "costs.way": "tailored", "neurons.arrows": [2, 0]},
            "damaged": [],
        }


def test_a_state_comes_back_as_it_was_written(javascript):
    body = f"""{SETTINGS}
    const values = {{ "costs.ratio": 0.35, "costs.way": "stock", "neurons.arrows": [1.5, -0.3] }};
    const fragment = m.writeFragment("neurons", values, settings);
    return [fragment, m.readFragment(fragment, settings, parts)];
    """
    fragment, state = javascript("state.js", body)
    assert fragment == "#neurons&costs.ratio=0.35&costs.way=stock&neurons.arrows=1.5,-0.3"
    assert state["part"] == "neurons"
    assert state["values"] == {"costs.ratio": 0.35, "costs.way": "stock", "neurons.arrows": [1.5, -0.3]}
    assert state["damaged"] == []


def test_what_is_as_at_first_is_not_written(javascript):
    body = (
        f'{SETTINGS} return m.writeFragment("costs", m.readFragment("", settings, parts).values, settings);'
    )
    assert javascript("state.js", body) == "#costs"


@pytest.mark.parametrize(
    "piece",
    [
        "costs.ratio=2",
        "costs.ratio=",
        "costs.ratio=NaN",
        "costs.ratio",
        "costs.way=fast",
        "neurons.arrows=1",
        "neurons.arrows=1,9",
        "unknown=1",
        "__proto__=1",
        "costs.ratio=%E0%A4%A",
    ],
)
def test_a_damaged_piece_is_named_and_the_rest_holds(javascript, piece):
    state = read(javascript, f"#costs&{piece}&costs.way=stock" if "way" not in piece else f"#costs&{piece}")
    assert state["damaged"] == [piece]
    assert state["values"]["costs.ratio"] == 0.2
    assert state["values"]["neurons.arrows"] == [2, 0]
    if "way" not in piece:
        assert state["values"]["costs.way"] == "stock"


def test_an_unknown_part_is_damaged(javascript):
    assert read(javascript, "#elsewhere&costs.ratio=0.3")["damaged"] == ["elsewhere"]


def test_the_page_is_up_to_date():
    assert PAGE.read_text("utf-8") == explore.page(), "run make explore"


def test_the_page_is_small_and_asks_for_nothing():
    text = PAGE.read_text("utf-8")
    assert len(text.encode()) < 5_000_000
    without_names = text.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?://", without_names) == []
    assert "default-src 'none'" in text


def test_the_page_works_without_numbers(tmp_path):
    text = explore.page(tmp_path)
    assert text.count("The numbers of this part were not taken yet.") == 2 * len(explore.MEASURED)
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_a_module_becomes_a_function_of_what_it_imports():
    imports = 'import {\n  a,\n  b,\n} from "./other.js";\n\n'
    source = imports + "export const C = 1;\nexport function d() {}\nfunction e() {}"
    function_text = explore.as_function("this.js", source)
    assert 'const {\n  a,\n  b,\n} = modules["other.js"];' in function_text
    assert "return { C, d };" in function_text
    assert "export" not in function_text and "import" not in function_text


def test_a_text_cannot_end_the_script(tmp_path):
    scripts = explore.number_scripts({"costs": {"texts": ["</script><b>"]}}, tmp_path)
    assert scripts.count("</script>") == 1


def test_all_that_is_measured_is_in_the_page():
    assert set(explore.MEASURED) == set(measure.PARTS)


def test_what_the_page_says_of_the_race_holds():
    """The answer and the message of part 3, whose words no number in the page holds."""
    race = explore.read_numbers(explore.NUMBERS)["layer"]["race"]
    half, fifth = (race["counts"].index(count) for count in (768, 416))
    by_price, at_random = race["price"], race["random"]
    assert at_random["bare"][fifth] > at_random["refitted"][fifth] > 1.3 * by_price["bare"][fifth]
    assert by_price["bare"][fifth] > 1.5 * by_price["refitted"][fifth]
    assert race["price"]["bare"][half] > 1.5 * race["price"]["refitted"][half]
    assert race["price"]["refitted"][fifth] < race["energy"]["refitted"][fifth]
    assert race["energy"]["bare"][fifth] < race["price"]["bare"][fifth]
    for racer in ("price", "energy", "random"):
        assert 1.7 < race[racer]["bare"][half] / race[racer]["refitted"][half] < 2.5


def test_what_the_page_says_of_facts_holds():
    """The answer of part 1: at which ratio each of the dense model's two facts is gone."""
    numbers = explore.read_numbers(explore.NUMBERS)["costs"]
    runs = sorted((float(ratio), run) for ratio, run in numbers["runs"]["tailored"].items())
    template = " ".join((explore.HERE / "template.html").read_text("utf-8").split())
    first_ratio_without = {}
    for prompt, fact in (("The planet that", "Mercury"), ("The capital of France", "Paris")):
        index = next(index for index, text in enumerate(numbers["prompts"]) if text.startswith(prompt))
        assert fact in numbers["dense"]["texts"][index]
        first_ratio_without[fact] = next(ratio for ratio, run in runs if fact not in run["texts"][index])
    mercury, paris = (f"{first_ratio_without[fact]:.0%}" for fact in ("Mercury", "Paris"))
    assert f"Mercury is gone at {mercury}, and Paris at {paris}" in template


def test_what_the_page_says_of_one_token_holds():
    """The answer of part 5: layer 11 does more harm than its neighbours, and one write does about as much."""
    numbers = explore.read_numbers(explore.NUMBERS)["tokens"]
    for text in numbers["texts"].values():
        dense = sum(text["loss"])
        harms = [sum(row) - dense for row in text["without"]]
        assert harms[11] > 3 * max(harms[10], harms[12])
        assert (sum(text["silenced"]) - dense) / harms[11] == pytest.approx(1, abs=0.2)
        shares = [share_of_the_first(text, layer) for layer in range(numbers["layers"])]
        assert shares[11] < 0.1
        assert min(shares[12:]) > 1 / 3


def share_of_the_first(text, layer):
    """The mean share of attention that the first token of a text gets from the others."""
    letters = text["attention"][layer]
    starts = [2 * position * (position + 1) // 2 for position in range(1, len(text["tokens"]))]
    return sum(int(letters[start : start + 2], 16) / 255 for start in starts) / len(starts)
