"""What the sweep found once: each value is refused by its name, since other cases may be drawn one day."""

from __future__ import annotations

import json

import numpy as np
import pytest
from variants import build, tokens

from comp_lib.checkpoints.from_disk import from_disk
from comp_lib.checkpoints.from_disk.work_folder import Journal
from comp_lib.checkpoints.load import open_model
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError

FIELDS = [  # file, field, values
    ("config.json", "sliding_window", [-1, 2**63, 2.5, "wide", {}, True]),
    ("generation_config.json", "eos_token_id", [2.5, "x", {}, [1, "x"], 2**64]),
    ("generation_config.json", "pad_token_id", [2.5, "x", {}, 2**64]),
]


@pytest.mark.parametrize(("file", "field", "values"), FIELDS)
def test_fields_that_transformers_takes_as_they_are(file, field, values, tmp_path, tokenizer):
    build().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / file
    fields = json.loads(path.read_text("utf-8"))
    for value in values:
        path.write_text(json.dumps(fields | {field: value}), "utf-8")
        with pytest.raises(InputError, match=f"{field}|generation_config.json"):
            open_model(tmp_path)


@pytest.mark.parametrize("name", ["method", "recovery", "aim", "widths", "layer_metric"])
def test_arrays_in_place_of_names(name):
    for value in (np.array([1, 2]), np.array([])):
        with pytest.raises(InputError, match=f"{name} to be one of"):
            Settings(**{name: value})


def test_losses_of_other_windows(tmp_path):
    journal = Journal(tmp_path, {})
    journal.record(dense_losses=(1.5,))
    with pytest.raises(InputError, match="with 2 losses, got 1 as dense_losses .*delete that folder"):
        from_disk._measure(journal, "dense", None, tokens(2, 12), "cpu", None)
