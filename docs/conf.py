"""How the documentation is built: `nox -s docs`."""

from importlib.metadata import version

project = "memorizz-async"
author = "The memorizz-async developers"
release = version("memorizz-async")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"memorizz-async {release}"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
