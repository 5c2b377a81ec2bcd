"""What the site needs beyond Jupyter Book: where its buttons lead, nothing from other hosts, measured times.

Loaded by ``_config.yml``; every function below is connected to one Sphinx event in :func:`setup`.
"""

import importlib.util
import os
import re
import shutil
from pathlib import Path

from sphinx.errors import ExtensionError

from book_tools import author_year, cards, chapters, ledger, run_times
from book_tools.bibliography import Bibliography

PLACEHOLDER = "https://github.com/OWNER/REPOSITORY"
MATHJAX = ("tex-mml-chtml.js", "input", "output/chtml/fonts", "a11y", "sre")  # what pages of ours can ask for
BODY = (  # what docutils, sphinx-proof and sphinx-exercise write, and what HTML and ARIA allow there
    ('role="doc-biblioentry"', 'role="listitem"'),
    *((f' id="{part}-content"', "") for part in ("proof", "exercise", "solution")),
    ('class="proof admonition" id="proof"', 'class="proof admonition dlt-proof"'),
)
INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="refresh" content="0; url={page}"></head>
<body><main><h1>{title}</h1><p><a href="{page}">Open the book</a></p></main></body></html>
"""


def repository_url(configured, environment=os.environ):
    """Return the address of the repository: in a GitHub workflow its own, elsewhere the configured one.

    >>> repository_url("https://github.com/OWNER/REPOSITORY", {})
    'https://github.com/OWNER/REPOSITORY'
    >>> repository_url("", {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b"})
    'https://github.com/a/b'
    """
    if environment.get("GITHUB_SERVER_URL") and environment.get("GITHUB_REPOSITORY"):
        return f"{environment['GITHUB_SERVER_URL']}/{environment['GITHUB_REPOSITORY']}"
    return configured


def configure(app, config):
    """Take the repository's address, keep the notebooks' sources out of the build, provide measured times."""
    options = config.html_theme_options
    options["repository_url"] = repository_url(options.get("repository_url", PLACEHOLDER))
    if options["repository_url"] == PLACEHOLDER:
        options["launch_buttons"] = {}
        options["use_repository_button"] = options["use_edit_page_button"] = False
    root = Path(app.srcdir)
    config.exclude_patterns += [f"chapters/{name}.md" for name in chapters.names(root)]
    words = {"chapter_list": chapter_list(root), **run_times.substitutions(root)}
    config.myst_substitutions = {**config.myst_substitutions, **words}


def chapter_list(root=chapters.ROOT):
    """Return the chapters as a Markdown list: title, how many claims hold, how long it takes to run."""
    lines = []
    for name, records in ledger.records(root).items():
        held = f"{sum(record['holds'] for record in records)} of {len(records)} claims hold"
        lines.append(f"- {{doc}}`{name}`: {held}; it runs in {run_times.told(name, 'ci', root)}.")
    return "\n".join(lines)


def colab_url(url):
    """Return where a Colab button should lead: the copy made for Colab, on the branch that carries the site.

    >>> colab_url("https://colab.research.google.com/github/a/b/blob/main/chapters/demo.ipynb")
    'https://colab.research.google.com/github/a/b/blob/gh-pages/colab/demo.ipynb'
    """
    return re.sub(r"/blob/[^/]+/chapters/(\w+\.ipynb)$", r"/blob/gh-pages/colab/\1", url)


def source_url(url):
    """Return where an edit button should lead: the Markdown source, never the derived notebook.

    >>> source_url("https://github.com/a/b/edit/main/chapters/demo.ipynb")
    'https://github.com/a/b/edit/main/chapters/demo.md'
    """
    return re.sub(r"\.ipynb$", ".md", url)


def mend_page(app, pagename, templatename, context, doctree):
    """Point the buttons where they should lead, drop scripts that would call other hosts, mend the markup."""
    body = context.get("body", "")
    for written, allowed in BODY:
        body = body.replace(written, allowed)
    context["body"] = cards.name_sources(body, Bibliography.of())
    context["script_files"] = [script for script in context["script_files"] if not _calls_out(script)]
    pending = list(context.get("header_buttons", []))
    while pending:
        button = pending.pop()
        pending += button.get("buttons", [])
        if "colab" in button.get("url", ""):
            button["url"] = colab_url(button["url"])
        elif button.get("label") == "source-edit-button":
            button["url"] = source_url(button["url"])


def _calls_out(script):
    name = str(getattr(script, "filename", script) or "")
    body = str(getattr(script, "attributes", {}).get("body", ""))
    return "thebe" in name.lower() or "THEBE" in body


def finish(app, error):
    """Put MathJax, and a page that leads to the first one, into the finished site."""
    if error or app.builder.format != "html":
        return
    copy_mathjax(Path(app.outdir) / "_static" / "mathjax")
    page = INDEX.format(title=app.config.html_title, page=f"{app.config.root_doc}.html")
    (Path(app.outdir) / "index.html").write_text(page, "utf-8")


def copy_mathjax(target):
    """Copy the files of MathJax 3 that pages can ask for from the package ``sphinx-mathjax-offline``."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None:
        raise ExtensionError("MathJax is missing: install sphinx-mathjax-offline, as requirements.txt says")
    source = Path(package.origin).parent / "static" / "mathjax"
    for part in MATHJAX:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, target / part)


def setup(app):
    """Register with Sphinx."""
    author_year.register()
    app.connect("config-inited", configure, priority=100)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
