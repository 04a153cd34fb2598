"""The site of the documentation: `make docs` builds it from the pages as they lie in the repository.

The source folder is the repository's root, so that a link that leads somewhere in a checkout does so on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
VERSION = (ROOT / "csrc/include/fastdqn/version.hpp").read_text()

project = "fastdqn"
copyright = "the fastdqn maintainers"
release = version = re.findall(r'VERSION_STRING "(.+)"', VERSION)[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "benchmarks/results/README.md"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"fastdqn {release}"
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # the fields of a dataclass, described in its docstring, once
default_role = "code"  # docstrings write `name`


def escape_shapes(*event: Any) -> None:
    """Keep the star of [B, *frame_shape] from beginning an emphasis."""
    lines: list[str] = event[-1]
    lines[:] = [line.replace("*frame_shape", r"\*frame_shape") for line in lines]


def write_entrance(app: Sphinx, error: Exception | None) -> None:
    """Lead from the site's root to the first page, which lies in docs/."""
    if error is None:
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>fastdqn</title>'
        (Path(app.outdir) / "index.html").write_text(page)


def setup(app: Sphinx) -> None:
    """Connect the above to Sphinx."""
    app.connect("autodoc-process-docstring", escape_shapes)
    app.connect("build-finished", write_entrance)
