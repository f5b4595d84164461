"""How Sphinx builds the pages; docs/build_site.py, which `make docs` runs, collects them."""

project = "mgraph"
author = "The mgraph maintainers"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
# Blocks such as ```python file=net.py are files of a page's directory; their languages are those of the fence.
suppress_warnings = ["misc.highlighting_failure"]
exclude_patterns = ["generate.py", "build_site.py", "screenshots.py"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
html_theme = "pydata_sphinx_theme"
html_title = "mgraph"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "show_prev_next": True}
