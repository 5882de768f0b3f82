"""Write a page that prunes in the browser: `python docs/explore/explore.py docs/explore.html`

The page is one file: the template, the styles, the modules and the numbers of this folder. The modules are
written as they are, each as a function that returns what it exports, so that they run without a server.
measure.py takes the numbers; a part without numbers says so.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from stills import NO_NUMBERS, STILLS

HERE = Path(__file__).resolve().parent
NUMBERS = HERE / "numbers"
MEASURED = ("costs", "layer", "budget", "tokens")
MODULES = (  # those that others need stand before them
    "drawing.js",
    "controls.js",
    "state.js",
    "packing.js",
    "arrows.js",
    "condition.js",
    "widths.js",
    "layer_worker.js",
    "part_costs.js",
    "part_neurons.js",
    "part_layer.js",
    "part_budget.js",
    "part_tokens.js",
    "page.js",
)
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z_]+\.js)";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)


def as_function(name: str, source: str) -> str:
    """A module as a script: a function that is called once, and returns what the module exports."""
    names = [match[2] for match in EXPORT.finditer(source)]
    body = EXPORT.sub(r"\1", source)
    body = IMPORT.sub(lambda match: f'const {{{match[1]}}} = modules["{match[2]}"];', body)
    return f'modules["{name}"] = (() => {{\n{body}\nreturn {{ {", ".join(names)} }};\n}})();'


def read_numbers(folder: Path) -> dict[str, Any]:
    """The numbers of each part that has some."""
    files = {name: folder / f"{name}.json" for name in MEASURED}
    return {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.exists()}


def data_script(name: str, kind: str, content: str) -> str:
    return f'<script type="{kind}" id="{name}">\n{content}\n</script>'


def number_scripts(numbers: dict[str, Any], folder: Path) -> str:
    """The numbers as the page reads them; a "<" in a text would end the script."""
    scripts = []
    for name, values in numbers.items():
        content = json.dumps(values, ensure_ascii=False).replace("<", "\\u003c")
        scripts.append(data_script(f"numbers-{name}", "application/json", content))
    if "layer" in numbers:
        for name in ("gram", "weights"):
            letters = base64.b64encode((folder / f"layer_{name}.bin").read_bytes()).decode("ascii")
            scripts.append(data_script(f"layer-{name}", "text/plain", letters))
    return "\n".join(scripts)


def source_of(name: str, numbers: dict[str, Any]) -> str:
    """Where a part's numbers come from, in a sentence."""
    if name not in numbers:
        return "The numbers of this part were not taken yet."
    values = numbers[name]
    made = values["made"]
    words = (
        f"Numbers: {made['model']}; {made['text']}; seed {made['seed']}. "
        f"Made by {made['command']} at {made['commit']}."
    )
    if name == "layer":
        words += (
            f" Layer {values['layer']}, ridge {values['ridge']}. The matrix is in half precision here; "
            f"what is lost of all outputs, {values['whole_error']:.2%}, was computed in double precision."
        )
    return html.escape(words)


def page(folder: Path = NUMBERS) -> str:
    """The whole page; folder: where the numbers are."""
    numbers = read_numbers(folder)
    scripts = []
    for name in MODULES:
        source = (HERE / name).read_text("utf-8").strip()
        scripts.append(f'<script id="{name}">\n{as_function(name, source)}\n</script>')
    parts = {
        "styles": (HERE / "style.css").read_text("utf-8").strip(),
        "numbers": number_scripts(numbers, folder),
        "scripts": "\n".join(scripts),
    }
    for name, draw in STILLS.items():
        known = name == "neurons" or name in numbers
        parts[f"still:{name}"] = draw(numbers.get(name)) if known else NO_NUMBERS
        parts[f"source:{name}"] = source_of(name, numbers)
    template = (HERE / "template.html").read_text("utf-8")
    return re.sub(r"\{\{([a-z:]+)\}\}", lambda match: parts[match[1]], template)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the page that prunes in the browser.")
    parser.add_argument("file", type=Path, help="where the page goes")
    options = parser.parse_args(arguments)
    options.file.write_text(page(), "utf-8")
    megabytes = options.file.stat().st_size / 1e6
    missing = [name for name in MEASURED if name not in read_numbers(NUMBERS)]
    notes = f"; without numbers: {', '.join(missing)}" if missing else ""
    sys.stdout.write(f"{options.file}: {megabytes:.2f} MB{notes}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
