"""The book, as Sphinx builds it: `make book`. docs/book.py lays it out, and no network is used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "comp-lib"
author = "The comp-lib team"
copyright = "2026, the comp-lib team"
extensions = ["myst_nb", "mathml"]
root_doc = "index"
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
suppress_warnings = ["myst.header", "toc.not_included"]  # pages that lessons link to may miss in the menu

nb_execution_mode = "off"  # what is stored is what is shown
nb_ipywidgets_js: dict[str, object] = {}  # widgets are stills here, and scripts from elsewhere are not wanted
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # cells show tables
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "anchors.as_jupyter"

html_theme = "sphinx_book_theme"
html_title = "COMP, taught and performed"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_theme_options: dict[str, object] = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # its search field would be a second one
    "show_toc_level": 2,
    "home_page_in_toc": True,
}
repository = os.environ.get("COMP_LIB_REPOSITORY")  # where the pages are published from
if repository:  # buttons that open a lesson
    html_theme_options |= {
        "repository_url": repository,
        "use_repository_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
        },
    }
