"""How the documentation is built: `nox -s docs`."""

import inspect
import re
from importlib.metadata import version as version_of
from typing import Any

project = "memorizz-async"
author = "The memorizz-async developers"
release = version_of("memorizz-async")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"memorizz-async {release}"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
default_role = "code"
autodoc_typehints = "description"
autodoc_member_order = "bysource"

_GOOGLE = re.compile(r"^(Args|Attributes|Example:|Raises|Returns):$", re.MULTILINE)
_ARGUMENT = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): ")


def as_rst(*event: Any) -> None:
    """Our docstrings are plain text: `name: what it is` becomes a list, what is indented, code."""
    lines: list[str] = event[-1]
    if _GOOGLE.search(inspect.getdoc(event[3]) or ""):
        return  # napoleon has converted it
    rst: list[str] = []
    for paragraph in "\n".join(lines).split("\n\n"):
        body = paragraph.strip("\n").split("\n")
        if all(line.startswith("    ") or not line for line in body):
            rst += ["::", "", *body, ""]
            continue
        for line in body:
            argument = _ARGUMENT.match(line)
            if argument:
                rst += ["", f"- **{argument[1]}**: {line[argument.end() :]}"]
            elif rst and rst[-1].startswith("- ") and line.startswith("    "):
                rst[-1] += " " + line.strip()
            else:
                rst += ([""] if rst and rst[-1].startswith("- ") else []) + [line.strip()]
        rst.append("")
    lines[:] = rst


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_rst)
