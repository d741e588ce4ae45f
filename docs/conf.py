"""Configuration of the documentation: ``pip install -e '.[docs]' && sphinx-build -W docs docs/_build``.

Parts of it are made at build by modules beside this file, each a Sphinx extension.
"""

import sys
from pathlib import Path

import seqmix

sys.path.insert(0, str(Path(__file__).parent))

project = "seqmix"
author = "the seqmix authors"
copyright = "2026, the seqmix authors"
release = version = seqmix.__version__
# the one place that knows the address of the repository
repository = "https://github.com/seqmix/seqmix"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "_gallery",
    "_images",
    "_outside",
    "_program",
    "_reference",
    "_repository",
    "_results",
    "_try",
]
exclude_patterns = ["_*"]
# quotes in messages and options are those to type
smartquotes = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autosummary_generate = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "seqmix"
html_favicon = "favicon.svg"
html_copy_source = False
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": repository,
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view", "edit"],
}
# prompts and output are not copied
copybutton_exclude = ".linenos, .gp, .go"
