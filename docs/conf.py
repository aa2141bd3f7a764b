"""How Sphinx makes the pages: `make docs`."""

from __future__ import annotations

from importlib.metadata import version as installed

project = "scatflow"
author = "The scatflow developers"
release = installed("scatflow")
version = release
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.py.md5"]

html_theme = "furo"
html_title = "scatflow"
# Files beside the pages that pages name: scripts, pictures.
html_copy_source = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # Docstrings tell the types.
autodoc_member_order = "bysource"
# Nothing is compiled or looked for on a device while the pages are made.
autodoc_mock_imports = ["cupy"]
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # Those that take seconds are run; the programs of `make science` take minutes and data.
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "remove_config_comments": True,
    "show_memory": False,
    "abort_on_example_error": True,
    "download_all_examples": False,
}
