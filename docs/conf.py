"""Configuration of the documentation: ``pip install -e '.[docs]' && sphinx-build -W docs docs/_build``."""

import seqmix

project = "seqmix"
author = "the seqmix authors"
copyright = "2026, the seqmix authors"
release = version = seqmix.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "seqmix"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
