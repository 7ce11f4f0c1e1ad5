"""How Sphinx builds the site of these pages: ``make docs``, without a network; docs/_site/ has what is the project's own."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_site")]

import qat  # noqa: E402

project = "qat-engine"
version = release = qat.__version__
author = "the qat-engine developers"
project_copyright = ""
html_show_sphinx = False
html_show_copyright = False

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "generated",  # pages that are made of the code: the options of commands, the API
    "pages",  # what the Markdown pages need: the side bar from the lists of the README files, links to reports
]

# The sources are all pages of the repository, so that links between them are the same here and on a Git host.
root_doc = "docs/README"
include_patterns = ["*.md", "docs/**/*.md", "docs/*.md", "docs/reference/**", "examples/*/*.md"]
exclude_patterns = [
    *(".*", "**/__pycache__"),
    *(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("docs", "examples")),
]
nitpicky = False  # types of other packages stay plain text: their inventories would have to be downloaded

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
highlight_language = "text"  # of blocks that do not name theirs: commands and what they print
smartquotes = False  # it would make a dash of the hyphens of --flag

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_preprocess_types = False

html_theme = "furo"
html_title = f"qat-engine {version}"
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = True
html_theme_options = {"navigation_with_keys": True}
linkcheck_timeout = 20
linkcheck_workers = 4
