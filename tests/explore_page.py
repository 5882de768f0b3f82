"""What the tests of docs/explore share: its folder on the path, and node, which runs its modules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPLORE = ROOT / "docs" / "explore"
sys.path.append(str(EXPLORE))

NODE = shutil.which("node")
OLDEST_NODE = (20, 19)  # from here on node sees by itself that a .js file is a module


def node_version():
    version_text = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in version_text.strip().lstrip("v").split(".")[:2])


@pytest.fixture(scope="session")
def javascript():
    """`javascript(module, body, data)`: what `body` returns, with the module's exports as `m` and `data`."""
    if NODE is None:
        pytest.skip("no node, which runs the page's modules")
    if node_version() < OLDEST_NODE:
        pytest.skip(f"node {node_version()} is older than {OLDEST_NODE}")

    def run(module, body, data=None):
        script = (
            'import { readFileSync } from "node:fs";\n'
            f"import * as m from {json.dumps((EXPLORE / module).as_uri())};\n"
            "const data = JSON.parse(readFileSync(0, 'utf-8'));\n"
            "const list = (key, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);\n"
            f"const found = (() => {{ {body} }})();\n"
            "console.log(JSON.stringify(found, list));\n"
        )
        finished_process = subprocess.run(
            [NODE, "--input-type=module", "--eval", script],
            input=json.dumps(data),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished_process.returncode == 0, finished_process.stderr
        return json.loads(finished_process.stdout)

    return run
