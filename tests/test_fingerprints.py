"""What `prune` keeps, and the weights that it makes: only a change of the method may change them.

On every machine the same layers, neurons and KV groups stay. Processors and versions of torch round in their
own ways, so the weights are equal to the bit on the machine of the file only; elsewhere the sums of their
squares are compared, within 1e-3.

`python tests/test_fingerprints.py` prints what differs from tests/fingerprints.json. With `--store` it also
writes that file anew; a commit that does so says which step changed which number, and why. With `--tiny` it
leaves out the real model.
"""

from __future__ import annotations

import json
import sys

import pytest
from fingerprints import (
    CASES,
    REAL_CASES,
    STORED_FILE,
    check,
    fingerprint,
    hash_of_kept,
    machine,
    prune_tiny,
    read_stored,
    real,
)

from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.pruning.method_version import METHOD_VERSION


@pytest.mark.parametrize("name", CASES)
def test_tiny_models_keep_what_the_file_says_and_get_its_weights(name):
    check(name, prune_tiny(name))


def test_the_numbers_are_those_of_this_version_of_the_method():
    assert read_stored()["method_version"] == METHOD_VERSION


def main() -> None:
    """Print what differs from the file, and write it anew where --store is given."""
    prunings = {name: prune_tiny(name) for name in CASES}
    if "--tiny" not in sys.argv:
        dense = load_model(INCLUDED_MODEL)
        prunings |= {f"smollm2 {name}": real(name, *dense) for name in REAL_CASES}
    stored = read_stored()
    differences = []
    for name, pruned in prunings.items():
        computed = {"cases": fingerprint(pruned.model), "kept": hash_of_kept(pruned.plan)}
        for table, value in computed.items():
            before = stored[table].get(name)
            if value == before:
                print(f"{name}, {table}: same")
            else:
                print(f"{name}, {table}: was {before}, is {value}")
                differences.append((name, table))
            stored[table][name] = value
    changed = [name for name, table in differences if table == "kept" or stored["machine"] == machine()]
    if "--store" in sys.argv and changed and stored["method_version"] == METHOD_VERSION:
        sys.exit(f"{changed[0]} has other numbers: raise METHOD_VERSION, then store them")
    if "--store" in sys.argv:
        stored["method_version"] = METHOD_VERSION
        stored["machine"] = machine()
        STORED_FILE.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
