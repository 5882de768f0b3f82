"""Do the notebooks notice? `python .ci/break.py`: breaks one formula after the other in a copy, and runs a notebook.

Formulas of the library and formulas that stand in the cells.

Each has to fail; which cell fails first is printed. Takes minutes, and is no part of `make test`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from comp_lib.models.gguf_files import cache_folder

ROOT = Path(__file__).resolve().parents[1]
CELL = "a cell"  # of the notebook itself
BREAKS = [  # (module of comp_lib or CELL, right, wrong, the notebook that has to notice)
    (CELL, "w = 1 / (h + y).norm(", "w = 1 / h.norm(", "00_start_here"),
    (
        CELL,
        "cosine_similarity(before, h, dim=-1).mean()",
        "cosine_similarity(before, h, dim=-1).median()",
        "01_layer_importance",
    ),
    (CELL, "if place not in no_mlp:", "if place not in no_attention:", "01_layer_importance"),
    (CELL, "return C * (W @ W.T)", "return C * (W @ W.T).abs()", "02_matrix_condition"),
    (CELL, "P[K][:, K] - cross @ down", "P[K][:, K] + cross @ down", "02_matrix_condition"),
    ("importance/matrix_condition.py", ".clamp_min(1.0).sqrt()", ".clamp_min(1.0)", "02_matrix_condition"),
    ("statistics/gram.py", "xtx * (weight @ weight.T)", "xtx * (weight @ weight.T).abs()", "02_matrix_condition"),
    (CELL, "x.double().var(0)", "x.double().square().mean(0)", "02b_metrics_on_trial"),
    ("shape.py", "count = inputs * dense_layer(", "count = dense_layer(", "03_hybrid_granularity"),
    (CELL, "G.sum(1)[kept] + toward * d", "G[kept][:, kept].sum(1) + toward * d", "04_mask_tuning"),
    (CELL, "B[kept] + d[:, None] * W[kept]", "B[kept]", "04_mask_tuning"),
    ("statistics/solve.py", "target[kept] + (held + added)[:, None] * weight[kept]", "target[kept]", "04_mask_tuning"),
    (CELL, "C[K] @ W + pull @ W[K])  # (k, m)", "C[K] @ W)  # (k, m)", "05_comp_end_to_end"),
    (CELL, "return torch.diag(1 / D) - scaled.T @", "return torch.diag(1 / D) + scaled.T @", "09_scale"),
]


def spoil(copy: Path, place: str, right: str, wrong: str, notebook: str) -> None:
    """Put the wrong formula in the place of the right one, in a copy of this repository."""
    path = copy / "notebooks" / f"{notebook}.ipynb" if place == CELL else copy / "comp_lib" / place
    # a notebook is JSON, in which quotes bear a backslash
    right, wrong = (json.dumps(text)[1:-1] if place == CELL else text for text in (right, wrong))
    source = path.read_text(encoding="utf-8")
    if source.count(right) != 1:
        sys.exit(f"expected {right!r} once in {path.name}, got {source.count(right)}: mend BREAKS")
    path.write_text(source.replace(right, wrong), encoding="utf-8")


def first_failure(folder: Path, notebook: str) -> str:
    """What nbval reports first for the notebook in that copy; empty if every cell passes."""
    nbval = ["--nbval-lax", "--nbval-current-env", "-x", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *nbval, f"notebooks/{notebook}.ipynb"]
    # an editable installation comes after PYTHONPATH, so the copy is what the kernel imports
    cache = folder.parent / "cache"
    cache.mkdir()  # statistics of the sound formula would hide the break; the converted model would not
    for converted in cache_folder().glob("gguf-*"):
        (cache / converted.name).symlink_to(converted)
    environment = os.environ | {"PYTHONPATH": str(folder), "COMP_LIB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    failed = re.search(r"FAILED (\S+::Cell \d+)", run.stdout)
    if run.returncode and not failed:
        sys.exit(f"no test ran:\n{run.stdout}{run.stderr}")
    return failed[1] if failed else ""


def main() -> int:
    unnoticed = 0
    for place, right, wrong, notebook in BREAKS:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "build"))
            spoil(copy, place, right, wrong, notebook)
            found = first_failure(copy, notebook)
        unnoticed += not found
        print(f"{place}: {right!r} -> {wrong!r}: {found or f'NOT NOTICED by {notebook}'}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
