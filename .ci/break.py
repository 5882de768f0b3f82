"""Do the notebooks notice? `python .ci/break.py`: breaks one formula after the other in a copy, and runs a notebook.

Each has to fail; which cell fails first is printed. Takes minutes, and is no part of `make test`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from comp_lib.models.gguf_files import cache_folder

ROOT = Path(__file__).resolve().parents[1]
BREAKS = [  # (module, right, wrong, the notebook that has to notice)
    ("importance/matrix_condition.py", ".clamp_min(1.0).sqrt()", ".clamp_min(1.0)", "02_matrix_condition"),
    ("statistics/gram.py", "xtx * (weight @ weight.T)", "xtx * (weight @ weight.T).abs()", "02_matrix_condition"),
    ("shape.py", "count = inputs * dense_layer(", "count = dense_layer(", "03_hybrid_granularity"),
    ("statistics/solve.py", "target[kept] + (held + added)[:, None] * weight[kept]", "target[kept]", "04_mask_tuning"),
]


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
    for module, right, wrong, notebook in BREAKS:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "build"))
            source = (copy / "comp_lib" / module).read_text(encoding="utf-8")
            if source.count(right) != 1:
                sys.exit(f"expected {right!r} once in {module}, got {source.count(right)}: mend BREAKS")
            (copy / "comp_lib" / module).write_text(source.replace(right, wrong), encoding="utf-8")
            found = first_failure(copy, notebook)
        unnoticed += not found
        print(f"{module}: {right!r} -> {wrong!r}: {found or f'NOT NOTICED by {notebook}'}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
