"""How the site is built: `sphinx-build -W -n docs build/site`."""

import inspect
import re

from sphinx.util.nodes import make_refnode
from sphinx_gallery.sorting import ExplicitOrder

import otcxr_sk

project = "otcxr-sk"
author = "the otcxr-sk developers"
version = release = otcxr_sk.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]

exclude_patterns = ["_build", "_templates", "auto_examples/*.ipynb"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = True
# Backquotes name parameters, too, and what belongs to other libraries: these are no links.
nitpick_ignore_regex = [("py:obj", r"(?!otcxr_sk\.).*"), ("py:class", r"sklearn\..*")]

myst_heading_anchors = 4

smartquotes = False  # Types such as {"squash", "pad"} are code.
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False

# From first steps to special questions; a new example comes last.
EXAMPLES = [
    *("quick_start", "dicom_folder", "grid_search", "few_labels", "weights", "resume"),
    *("duplicates", "matching", "read_out", "explain", "threshold", "segmentation"),
    *("drift", "export"),
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",
    "ignore_pattern": "benchmarks",
    "within_subsection_order": ExplicitOrder([*(f"plot_{name}.py" for name in EXAMPLES), "*"]),
    "write_computation_times": False,
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"otcxr-sk {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "otcxr-sk"},
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_show_sphinx = False

# Files beside the docs that pages link to, so that the links work in the repository as well.
ELSEWHERE = {
    r"(\.\./)+README\.md(#[\w-]+)?": "/index.md",
    r"(\.\./)+CHANGELOG\.md": "/changelog.md",
    r"(\.\./)+examples/(plot_\w+)\.py": r"/auto_examples/\2.rst",
}


def mend_links(app, name, source):
    """Lead links to files outside of the docs to the pages that are made of them."""
    for pattern, page in ELSEWHERE.items():
        source[0] = re.sub(rf"\]\({pattern}\)", rf"]({page})", source[0])


def find_elsewhere(app, env, node, contnode):
    """Find a public name that a docstring tells without its package."""
    name = node["reftarget"]
    if name == name.lower() and "_" not in name:  # more likely a parameter
        return None
    entries = env.domains.python_domain.objects.items()
    kinds = {"class", "exception", "function", "data"} | ({"method"} if "." in name else set())
    found = {
        (entry.docname, entry.node_id)
        for full, entry in entries
        if full.endswith(f".{name}") and entry.objtype in kinds
    }
    if node.get("refdomain") != "py" or len(found) != 1:
        return None
    ((page, anchor),) = found
    return make_refnode(app.builder, node["refdoc"], page, anchor, contnode, name)


def leave_out(app, what, name, obj, skip, options):
    """Leave out what classes inherit from other libraries."""
    module = getattr(obj, "__module__", None) or "otcxr_sk"
    return skip or inspect.ismethoddescriptor(obj) or not module.startswith("otcxr_sk") or None


def setup(app):
    """Connect the functions above."""
    app.connect("source-read", mend_links)
    app.connect("missing-reference", find_elsewhere)
    app.connect("autodoc-skip-member", leave_out)
