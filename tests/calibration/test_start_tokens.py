"""Start tokens of several texts: half of all windows get one, however few windows each text has."""

from __future__ import annotations

import copy

import pytest
from tokenizers import processors

from comp_lib.calibration.texts import load_text
from comp_lib.calibration.windows import calibration_tokens


@pytest.fixture
def bare_tokenizer(tokenizer):
    """A tokenizer that puts nothing before a text, and so leaves start tokens to the library."""
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return bare


@pytest.mark.parametrize("windows_of_each", [1, 2, 3])
def test_texts_take_turns_at_who_has_one_window_more_with_a_start_token(
    windows_of_each, bare_tokenizer, tmp_path
):
    """Of one window in each text every other text's gets it: else the odd windows would all have it, or none."""
    text = load_text("calibration")
    paths = [tmp_path / f"{number}.txt" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_text(text[3000 * number : 3000 * (number + 1)], "utf-8")
    source = "+".join(map(str, paths))
    ids = calibration_tokens(source, bare_tokenizer, sequences=4 * windows_of_each, length=16)
    started = ids[:, 0] == bare_tokenizer.bos_token_id
    assert int(started.sum()) == 2 * windows_of_each
    if windows_of_each == 1:
        assert started.tolist() == [True, False, True, False]
