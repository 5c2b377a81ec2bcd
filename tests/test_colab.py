"""The Colab copies: each construct made plain, nothing left raw, code word for word, an honest set-up."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import stand_in
from nbformat.v4 import new_code_cell, new_notebook
from pybtex.database import parse_string

from book_tools import chapters, colab, execute, inline, lowering, tex
from book_tools.bibliography import Bibliography
from book_tools.chapters import BookError
from book_tools.numbers import Numbers

SITE = {
    "demo": r"""
<section id="a-demo"><span id="chap-demo"></span>
<h1><span class="section-number">1. </span>A demo<a class="headerlink">#</a></h1>
<div class="math" id="equation-eq-x"><span class="eqno">(1.1)<a class="headerlink">#</a></span>\[x\]</div>
<div class="proof theorem admonition" id="thm-one">
<p class="admonition-title"><span class="caption-number">Theorem 1.1 </span> (One)</p></div>
<div class="exercise admonition" id="ex-one">
<p class="admonition-title"><span class="caption-number">Exercise 1.1 </span> (Do)</p></div>
<div class="solution admonition" id="sol-one">
<p class="admonition-title">Solution to<a> Exercise 1.1 (Do)</a></p></div>
<figure id="fig-one">
<figcaption><p><span class="caption-number">Fig. 1.1 </span>Words.</p></figcaption></figure>
<table id="tab-one"><caption><span class="caption-number">Table 1.1 </span>Words.</caption></table>
<section id="some-where"><span id="sec-here"></span>
<h2><span class="section-number">1.1. </span>Some <em>where</em> \(\eta\)</h2></section>
</section>""",
    "other": """<section id="other-page"><h1>Other page</h1>
<div class="proof lemma admonition" id="lem-far">
<p class="admonition-title"><span class="caption-number">Lemma 2.1 </span></p></div>
<section id="some-where">
<h2><span class="section-number">2.1. </span>Some where else</h2></section></section>""",
}
MACROS = {"R": r"\mathbb{R}", "Loss": "L", "tr": r"\operatorname{tr}", "norm": [r"\lVert #1 \rVert", 1],
          "inner": [r"\langle #1, #2 \rangle", 2], "argmin": r"\operatorname*{arg\,min}"}  # fmt: skip
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501012718e366"
    "0000000049454e44ae426082"
)


@pytest.fixture
def page(tmp_path):
    """A page whose site is the one above, with one picture beside it and no known address."""
    for name, article in SITE.items():
        tmp_path.joinpath("html", "chapters").mkdir(parents=True, exist_ok=True)
        tmp_path.joinpath("html", "chapters", f"{name}.html").write_text(
            f"<article>{article}</article>", "utf-8"
        )
    tmp_path.joinpath("pic.png").write_bytes(PIXEL)
    bibliography = Bibliography(parse_string(stand_in.REFERENCES, "bibtex"))
    return inline.Page(
        "demo", tmp_path, Numbers.of(tmp_path / "html"), bibliography, MACROS, {"time_demo": "2 min"}
    )


# inline: roles, citations, links


@pytest.mark.parametrize("source, plain", {
    "{eq}`eq:x`": "(1.1)",
    "{prf:ref}`thm-one`": "Theorem 1.1",
    "{prf:ref}`lem-far`": "Lemma 2.1",
    "{numref}`fig-one`": "Fig. 1.1",
    "{numref}`Picture %s <fig-one>`": "Picture 1.1",
    "{numref}`no. {number} <tab-one>`": "no. 1.1",
    "{numref}`sec-here`": "Section 1.1",
    "{ref}`sec-here`": r"Some where \(\eta\)",
    "{ref}`there <sec-here>`": "there",
    "{ref}`ex-one`": "Exercise 1.1",
    "{ref}`sol-one`": "Solution to Exercise 1.1 (Do)",
    "{doc}`other`": "Other page",
    "{doc}`that page <other>`": "that page",
    "{cite}`bernoulli1713ars`": "(Bernoulli, 1713)",
    "{cite:p}`bernoulli1713ars,gauss1823theoria`": "(Bernoulli, 1713; Gauß and Müller, 1823)",
    "{cite:t}`cohen2021gradient`": "Cohen et al. (2021)",
    "{cite:t}`bernoulli1713ars, gauss1823theoria`": "Bernoulli (1713) and Gauß and Müller (1823)",
    "{cite:author}`cohen2021gradient`": "Cohen et al.",
    "{cite:year}`cohen2021gradient`": "2021",
    "{term}`coin`": "coin",
    "{term}`coins <coin>`": "coins",
    "{abbr}`GD (gradient descent)`": "GD",
    "{sub}`2`": "<sub>2</sub>",
    "{math}`\\R^2`": "$\\mathbb{R}^2$",
    "{code}`x`": "`x`",
    "{{ time_demo }}": "2 min",
    "[text](other.md)": "text",
    "[](other.md)": "Other page",
    "[](#eq:x)": "(1.1)",
    "[there](#sec-here)": "there",
    "[a {eq}`eq:x` link](https://example.org/a_b_(c))": "[a (1.1) link](https://example.org/a_b_(c))",
    "<https://example.org>": "<https://example.org>",
    "<project:#thm-one>": "Theorem 1.1",
    "`{eq}`": "`{eq}`",
    "``{eq}`eq:x` ``": "``{eq}`eq:x` ``",
    "$x \\in \\R$ and $\\R$": "$x \\in \\mathbb{R}$ and $\\mathbb{R}$",
    "$a\n+ b$": "$a + b$",
    "\\$5 and \\$6, {eq}`eq:x`": "\\$5 and \\$6, (1.1)",
    "[words]{.class}": "words",
    "a note[^n]": "a note<sup>n</sup>",
}.items())  # fmt: skip
def test_inline(page, source, plain):
    assert inline.lower(source, page) == plain


@pytest.mark.parametrize("source, reason", {
    "{eq}`eq:none`": "no label eq:none",
    "{numref}`other-page`": "has no number",
    "{doc}`nowhere`": "no page nowhere",
    "{cite:t}`nobody2000`": "references.bib has no nobody2000",
    "{cite:full}`cohen2021gradient`": "cannot be made plain",
    "{glue:text}`x`": "cannot be made plain",
    "{{ time_nothing }}": "no substitution time_nothing",
    "![words](none.png)": "no picture none.png",
}.items())  # fmt: skip
def test_what_is_not_known_is_refused(page, source, reason):
    with pytest.raises(BookError, match=rf"chapters/demo\.md, line 9: .*{re.escape(reason)}"):
        lowering.lower(f"Text.\n\n(label)=\n{source}", page, line=6)


def test_links_to_other_pages_lead_to_the_site_where_it_is_known(page):
    page.site = "https://a.github.io/b"
    assert (
        inline.lower("{prf:ref}`lem-far`", page)
        == "[Lemma 2.1](https://a.github.io/b/chapters/other.html#lem-far)"
    )
    assert inline.lower("{doc}`other`", page) == "[Other page](https://a.github.io/b/chapters/other.html)"
    assert inline.lower("{prf:ref}`thm-one`", page) == "Theorem 1.1"
    assert (
        inline.lower('<video src="../_static/v.mp4">', page)
        == '<video src="https://a.github.io/b/chapters/../_static/v.mp4">'
    )


def test_pictures(page):
    assert inline.lower("![words](pic.png)", page).startswith("![words](data:image/png;base64,iVBORw0KGgo")
    page.raw = "https://raw.githubusercontent.com/a/b/0123/chapters"
    assert inline.lower("![words](pic.png){width=50%}", page) == f"![words]({page.raw}/pic.png)"


def test_large_picture_without_an_address_becomes_words(page):
    page.folder.joinpath("pic.png").write_bytes(PIXEL + bytes(inline.SIZE))
    assert "only on the site: words" in inline.lower("![words](pic.png)", page)


def test_the_own_page_is_preferred_where_two_have_an_anchor(page):
    assert page.numbers.find("some-where", "demo").number == "Section 1.1"
    assert page.numbers.find("some-where", "other").number == "Section 2.1"


# blocks


@pytest.mark.parametrize("source, plain", {
    "# A demo\n\n(sec-here)=\n## Some *where* $\\eta$": "# 1. A demo\n\n## 1.1. Some *where* $\\eta$",
    "% comment\nText.\n\n+++\n\n{.class}\nMore.": "Text.\n\nMore.",
    "$$\n\\Loss(w) = \\norm{w}\n$$ (eq:x)": "$$\nL(w) = \\lVert w \\rVert \\tag{1.1}\n$$",
    "$$ x = 1 $$": "$$\nx = 1\n$$",
    "\\begin{align}\na &= b \\label{y} \\\\\nc &= d\n\\end{align}":
        "$$\n\\begin{aligned}\na &= b  \\\\\nc &= d\n\\end{aligned}\n$$",
    ":::{math}\n:label: eq:x\nx\n:::": "$$\nx \\tag{1.1}\n$$",
    ":::{prf:theorem} One\n:label: thm-one\n\nIf $x$,\n\n$$\nx\n= 1\n$$ (eq:x)\n:::":
        "> **Theorem 1.1 (One).**\n>\n> If $x$,\n>\n> $$x = 1 \\tag{1.1}$$",
    ":::{prf:remark} Aside\n:nonumber:\n\nText.\n:::": "> **Remark (Aside).**\n>\n> Text.",
    ":::{prf:proof}\nBy {eq}`eq:x`.\n:::": "*Proof.* By (1.1). ∎",
    ":::{prf:proof} Proof of {prf:ref}`thm-one`\n:class: dropdown\nSo. $\\square$\n:::":
        "<details>\n<summary>Proof of Theorem 1.1</summary>\n\nSo. $\\square$\n\n</details>",
    ":::{exercise} Do\n:label: ex-one\n\nIt.\n:::": "> **Exercise 1.1 (Do).**\n>\n> It.",
    ":::{solution} ex-one\n:label: sol-one\n:class: dropdown\n\nDone.\n:::":
        "<details>\n<summary>Solution to Exercise 1.1</summary>\n\nDone.\n\n</details>",
    ":::{exercise-start}\n:label: ex-one\n:::\n\nIt.\n\n:::{exercise-end}\n:::": "**Exercise 1.1.**\n\nIt.",
    ":::{solution-start} ex-one\n:::\n\nDone.\n\n:::{solution-end}\n:::":
        "**Solution to Exercise 1.1.**\n\nDone.",
    ":::{note}\nText.\n:::": "> **Note**\n>\n> Text.",
    ":::{warning} Hot\nText.\n:::": "> **Warning: Hot**\n>\n> Text.",
    ":::{seealso}\nText.\n:::": "> **See also**\n>\n> Text.",
    ":::{tip}\n:class: dropdown\nText.\n:::": "<details>\n<summary>Tip</summary>\n\nText.\n\n</details>",
    ":::{admonition} Title\n:class: tip\nText.\n:::": "> **Title**\n>\n> Text.",
    ":::{admonition} Title\n---\nclass: dropdown\n---\nText.\n:::":
        "<details>\n<summary>Title</summary>\n\nText.\n\n</details>",
    ":::{dropdown} Title\nText.\n:::": "<details>\n<summary>Title</summary>\n\nText.\n\n</details>",
    ":::{margin}\nText.\n:::": "> **Aside**\n>\n> Text.",
    "::::{note}\nOne.\n\n:::{tip}\nTwo.\n:::\n::::": "> **Note**\n>\n> One.\n>\n> > **Tip**\n> >\n> > Two.",
    "- item\n\n  :::{note}\n  Text.\n  :::": "- item\n\n  > **Note**\n  >\n  > Text.",
    ":::{list-table} Words\n:name: tab-one\n:header-rows: 1\n\n* - A\n  - B\n* - $\\R$\n  - {eq}`eq:x`\n:::":
        "**Table 1.1.** Words\n\n| A | B |\n| --- | --- |\n| $\\mathbb{R}$ | (1.1) |",
    ":::{glossary}\ncoin\n  A thing.\n:::": "- **coin**: A thing.",
    "Term\n: Meaning.": "- **Term**: Meaning.",
    "```python\n:::{note}\n```": "```python\n:::{note}\n```",
    ":::{code-block} python\nx = 1\n:::": "```python\nx = 1\n```",
    "| a | b |\n| --- | --- |\n| {eq}`eq:x` | 2 |": "| a | b |\n| --- | --- |\n| (1.1) | 2 |",
    ":::{exercise-end}\n:::": "",
}.items())  # fmt: skip
def test_block(page, source, plain):
    assert lowering.lower(source, page) == plain


def test_figure(page):
    page.raw = "https://raw"
    source = ":::{figure} pic.png\n:name: fig-one\n:alt: A pixel\n\nWords with $\\R$.\n:::"
    assert (
        lowering.lower(source, page)
        == "![A pixel](https://raw/pic.png)\n\n**Fig. 1.1.** Words with $\\mathbb{R}$."
    )


@pytest.mark.parametrize("source, reason", {
    ":::{mermaid}\nx\n:::": "line 7: the directive {mermaid} cannot be made plain",
    "::::{note}\n:::{literalinclude} x\n:::\n::::": "line 8: the directive {literalinclude}",
    ":::{note}\nText.": "line 7: the directive note that opens here is never closed",
    "$$\nx": "line 7: the equation that opens here is not closed",
    ":::{prf:theorem} No label\nText.\n:::": "line 7: this theorem needs a :label:",
    ":::{list-table}\n* - A\n  - B\n* - C\n:::": "line 7: the rows of this list-table have different numbers",
    "text :::{note} text": "was left as it is",
    "$\\inner{a}$": "needs 2 arguments",
}.items())  # fmt: skip
def test_block_that_is_refused(page, source, reason):
    with pytest.raises(BookError, match=rf"chapters/demo\.md, .*{re.escape(reason)}"):
        lowering.lower(f"Text.\n\n{source}", page, line=5)


# TeX


@pytest.mark.parametrize("source, expanded", {
    r"\nabla\Loss": r"\nabla L",
    r"\Loss w\Loss": "L wL",
    r"\Lossy": r"\Lossy",
    r"x^\R_\Loss": r"x^{\mathbb{R}}_{L}",
    r"\norm{\inner{a}{\norm b}}": r"\lVert \langle a, \lVert b \rVert \rangle \rVert",
    r"\norm{a_{ij}\}}": r"\lVert a_{ij}\} \rVert",
    r"\argmin_w": r"\operatorname*{arg\,min}_w",
    r"\norm\alpha": r"\lVert \alpha \rVert",
}.items())  # fmt: skip
def test_macros(source, expanded):
    assert tex.expand(source, MACROS) == expanded


def test_macro_that_stands_for_itself():
    with pytest.raises(BookError, match="stands for itself"):
        tex.expand(r"\a", {"a": r"\b", "b": r"\a"})


# whole copies: a small book, built by Jupyter Book


CONFIG = """
title: A book
execute: {execute_notebooks: "off"}
only_build_toc_files: true
parse: {myst_enable_extensions: [amsmath, colon_fence, deflist, dollarmath, substitution]}
bibtex_bibfiles: [references.bib]
repository: {url: https://github.com/OWNER/REPOSITORY}
sphinx:
  recursive_update: true
  local_extensions: {book_tools.sphinx_extension: .}
  extra_extensions: [sphinx_proof, sphinx_exercise]
  config: {mathjax3_config: {tex: {macros: {R: "\\\\mathbb{R}"}}}, bibtex_reference_style: author_year}
"""
TOC = """format: jb-book
root: chapters/index
parts:
  - caption: One
    numbered: true
    chapters: [{file: chapters/coin_toss}]
  - caption: Back
    chapters: [{file: chapters/references}]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The stand-in book, executed and built."""
    root = stand_in.make(tmp_path_factory.mktemp("built"))
    (root / "_config.yml").write_text(CONFIG, "utf-8")
    (root / "_toc.yml").write_text(TOC, "utf-8")
    (root / "chapters" / "references.md").write_text("# References\n\n:::{bibliography}\n:::\n", "utf-8")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "--all", "-n"]
    run = subprocess.run(
        command, cwd=root, env=execute.environment(root), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return root


@pytest.fixture
def known(monkeypatch):
    """The workflow of a repository on GitHub."""
    for key, value in {
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "a/b",
        "GITHUB_SHA": "0123abc",
    }.items():
        monkeypatch.setenv(key, value)


@pytest.fixture
def unknown(monkeypatch):
    """No repository but that of ``_config.yml``."""
    for key in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_SHA"):
        monkeypatch.delenv(key, raising=False)


def copy_of(root):
    """Write the copies and return that of the only chapter."""
    (path,) = colab.write(root)
    return nbformat.read(path, as_version=4)


def text_of(notebook):
    """All Markdown of a notebook."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code_of(notebook):
    """The sources of the code cells."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_code_is_the_chapters_after_the_set_up(built, known):
    made, chapter = copy_of(built), chapters.executed(built)[stand_in.NAME]
    assert code_of(made)[1:] == code_of(chapter) and made.cells[0].cell_type == "code"


def test_text_bears_the_numbers_of_the_site(built, known):
    text = text_of(copy_of(built))
    for piece in (
        "# 1. The coin", "## 1.1. The question", "(Bernoulli, 1713)?", "as in (1.1).", "\\tag{1.1}",
        "> **Theorem 1.1 (Law of large numbers).**", "<summary>Solution to Exercise 1.1</summary>",
        "**Fig. 1.1.** Three coins, all close to one half, see (1.1).",
        "(preset `ci`); preset `gpu`: not measured",
        "## References\n\n- Jacob Bernoulli. *Ars Conjectandi*. Thurneysen, 1713.",
        "[doi:10.1000/x\\_y](https://doi.org/10.1000/x_y)",
    ):  # fmt: skip
        assert piece in text


def test_caption_follows_its_figure(built, known):
    cells = copy_of(built).cells
    (i,) = (i for i, cell in enumerate(cells) if cell.source.startswith("**Fig."))
    assert any("image/png" in output.get("data", {}) for output in cells[i - 1].outputs)
    assert cells[i - 1].metadata["cellView"] == "form"


def test_set_up_installs_the_very_commit_and_nothing_else(built, known):
    source = copy_of(built).cells[0].source
    assert (
        '"git+https://github.com/a/b@0123abc"' in source and '"--no-deps"' in source and "torch" not in source
    )


def test_set_up_does_nothing_where_the_package_is(built, known):
    source = copy_of(built).cells[0].source
    code = f"import sys; sys.executable = 'nothing to install with'\n{source}"
    assert subprocess.run([sys.executable, "-c", code], cwd=chapters.ROOT, check=False).returncode == 0


def test_set_up_without_an_address_says_so(built, unknown, tmp_path):
    source = copy_of(built).cells[0].source
    assert "github.com" not in source
    run = subprocess.run(
        [sys.executable, "-S", "-E", "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (
        run.returncode == 1
        and "RuntimeError: dlt_helpers is not installed, and this copy does not know" in run.stderr
    )


def test_metadata_asks_for_a_gpu(built, known):
    metadata = copy_of(built).metadata
    assert metadata["accelerator"] == "GPU" and metadata["colab"]["toc_visible"] is True
    assert metadata["kernelspec"]["name"] == "python3"


def test_writing_twice_gives_the_same_bytes(built, known):
    (path,) = colab.write(built)
    before = path.read_bytes()
    path.unlink()
    colab.write(built)
    assert path.read_bytes() == before


def test_copy_runs(built, unknown, monkeypatch):
    made = copy_of(built)
    execute.execute(made, cwd=built, root=built)
    assert [cell.execution_count for cell in made.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5]


def test_command_line(built, unknown, capsys, tmp_path):
    assert colab.main([], built) == 0 and "repository.url" in capsys.readouterr().out
    (tmp_path / "chapters").mkdir()
    assert colab.main([], tmp_path) == 1
    assert (
        capsys.readouterr().err
        == "✗ the site is not built, so there are no numbers to take from it; run make book first\n"
    )


def test_no_commit_to_install(known, monkeypatch, tmp_path):
    monkeypatch.delenv("GITHUB_SHA")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(BookError, match="no git checkout"):
        colab.setup_cell(tmp_path)


def test_notebook_given_is_not_changed(page):
    given = new_notebook(cells=[new_code_cell("x = 1", metadata={"tags": ["hide-input"]})])
    before = nbformat.writes(given)
    colab.lowered(given, page, "pass")
    assert nbformat.writes(given) == before
