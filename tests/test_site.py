"""The built site: its links resolve, nothing comes from elsewhere, a real browser finds every page sound.

The tests in a browser are skipped where no Chromium is found; DLT_CHROMIUM names one in an unusual place.
"""

import functools
import http.server
import os
import re
import shutil
import threading
from types import SimpleNamespace
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup

from book_tools import chapters, sphinx_extension
from book_tools.book import SITE

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
ALLOWED = {}  # axe rule: why we live with it
ONCE = """() => {  // axe looks at each style of code once and at twenty formulas: 10 s a page instead of 100 s
    const seen = new Set();
    for (const word of document.querySelectorAll("div.highlight pre span[class]")) {
        if (seen.has(word.className)) word.replaceWith(word.textContent);
        seen.add(word.className);
    }
    for (const formula of Array.from(document.querySelectorAll("mjx-container")).slice(20)) formula.remove();
}"""
pytestmark = pytest.mark.skipif(not SITE.exists(), reason="there is no built site; `make book` builds it")


def pages():
    """Return the site's pages as paths relative to it, the redirecting front page left out."""
    found = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    return [path for path in found if not path.startswith("_static") and path != "index.html"]


@functools.cache
def parsed(path):
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@functools.cache
def anchors(path):
    return {tag["id"] for tag in parsed(path).find_all(id=True)}


# --- without a browser ---


def test_every_page_of_the_table_of_contents_is_built():
    listed = re.findall(r"(?:root|file): (\S+)", (chapters.ROOT / "_toc.yml").read_text("utf-8"))
    assert listed
    assert [page for page in listed if not (SITE / f"{page}.html").exists()] == []
    assert (SITE / "index.html").exists()


@pytest.mark.parametrize("page", pages())
def test_internal_links_and_fragments_resolve(page):
    broken = []
    for tag in parsed(SITE / page).find_all(["a", "link", "img", "script", "source", "video"]):
        link = tag.get("href") or tag.get("src")
        if not link or urlsplit(link).scheme or link.startswith("//"):
            continue
        parts = urlsplit(urljoin(page, link))
        target = SITE / unquote(parts.path or page)
        if not target.is_file():
            broken.append(f"{link}: there is no such file")
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in anchors(target):
            broken.append(f"{link}: no such place on that page")
    assert broken == []


@pytest.mark.parametrize("page", pages())
def test_images_have_a_text_that_is_not_a_path(page):
    wrong = []
    for image in parsed(SITE / page).find_all("img"):
        text = (image.get("alt") or "").strip()
        if not text or re.search(r"\.(png|jpe?g|svg|gif)$|^\S*/\S*$", text):
            wrong.append(f"{image.get('src', '')[:80]}: {text!r}")
    assert wrong == []


@pytest.mark.parametrize("page", pages())
def test_ids_are_unique(page):
    ids = [tag["id"] for tag in parsed(SITE / page).select("main [id]")]
    assert sorted(name for name in set(ids) if ids.count(name) > 1) == []


@pytest.mark.parametrize("name", chapters.names())
def test_the_download_of_a_chapter_is_its_colab_copy(name):
    copy = (SITE / "colab" / f"{name}.ipynb").read_bytes()
    assert (SITE / "_sources" / "chapters" / f"{name}.ipynb").read_bytes() == copy


def theme_options(url):
    options = {"repository_url": url, "launch_buttons": {"colab_url": "there"}, "use_edit_page_button": True}
    config = SimpleNamespace(html_theme_options=options, exclude_patterns=[], myst_substitutions={})
    sphinx_extension.configure(SimpleNamespace(srcdir=chapters.ROOT), config)
    return options


def test_no_button_leads_to_the_placeholder(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    options = theme_options(sphinx_extension.PLACEHOLDER)
    assert (options["launch_buttons"], options["use_edit_page_button"]) == ({}, False)
    options = theme_options("https://github.com/a/b")
    assert options["launch_buttons"] and options["use_edit_page_button"]


def test_buttons_lead_to_the_colab_copy_and_to_the_source():
    blob = {"url": "https://colab.research.google.com/github/a/b/blob/main/chapters/demo.ipynb"}
    edit = {"url": "https://github.com/a/b/edit/main/chapters/demo.ipynb", "label": "source-edit-button"}
    thebe = SimpleNamespace(filename="_static/sphinx-thebe.js", attributes={})
    buttons = [{"buttons": [blob]}, {"buttons": [edit]}]
    context = {"header_buttons": buttons, "script_files": [thebe, "own.js"]}
    sphinx_extension.mend_page(None, "chapters/demo", "page.html", context, None)
    assert blob["url"].endswith("/a/b/blob/gh-pages/colab/demo.ipynb")
    assert edit["url"].endswith("/a/b/edit/main/chapters/demo.md")
    assert context["script_files"] == ["own.js"]


# --- in a browser ---


def chromium():
    """Return the path of an installed Chromium or Chrome, or None."""
    named = os.environ.get("DLT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield opened
        opened.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def visit(browser, address):
    """Return a function that opens a page and returns it with the requests and the errors it made."""
    contexts = []

    def open_page(path, theme="light", width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(urljoin(address, path), wait_until="load")
        page.wait_for_load_state("networkidle")
        page.evaluate("() => window.MathJax?.startup?.promise")
        return page, requests, errors

    yield open_page
    for context in contexts:
        context.close()


def unreadable(page):
    """Return the formulas that MathJax left alone, met an error in, or printed in red (unknown macros)."""
    return page.evaluate("""() => Array.from(document.querySelectorAll("article .math"))
        .filter(place => !place.querySelector("mjx-container")
                         || place.querySelector("mjx-merror, mjx-mtext[style*=red]"))
        .map(place => place.outerHTML.slice(0, 300))""")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", pages())
def test_page_is_accessible_quiet_and_fits(visit, address, page, theme, width):
    from axe_playwright_python.sync_playwright import Axe

    opened, requests, errors = visit(page, theme, width)
    assert opened.evaluate("document.documentElement.dataset.theme") == theme
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert unreadable(opened) == []
    opened.evaluate(ONCE)
    found = Axe().run(opened, options={"runOnly": RULES}).response["violations"]
    wrong = {rule["id"]: [node["html"][:200] for node in rule["nodes"]] for rule in found}
    assert {rule: nodes for rule, nodes in wrong.items() if rule not in ALLOWED} == {}


def test_front_page_leads_to_the_book(visit, address):
    opened, *_ = visit("index.html")
    opened.wait_for_url(f"{address}chapters/index.html")


def test_search_finds_the_chapter(visit):
    opened, *_ = visit("search.html?q=sharpness")
    opened.wait_for_selector("#search-results li a")
    found = opened.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert any("chapters/edge_of_stability.html" in link for link in found)


def test_mathematics_is_typeset_from_a_file(browser):
    page = browser.new_page()
    page.goto((SITE / "chapters" / "edge_of_stability.html").as_uri())
    page.wait_for_selector("mjx-container mjx-mi", state="attached")
    assert unreadable(page) == []
    page.close()
