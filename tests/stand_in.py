"""A small book that keeps every rule, for tests that break it: never the checkout itself."""

import re
import shutil
from pathlib import Path

import nbformat

from book_tools import execute

NAME = "coin_toss"
REFERENCES = r"""
@book{bernoulli1713ars, title={Ars Conjectandi}, author={Bernoulli, Jacob},
  publisher={Thurneysen}, year={1713}}
@article{gauss1823theoria, title={Theoria combinationis}, author={Gau{\ss}, Carl F. and M{\"u}ller, Anna},
  journal={Commentationes}, year={1823}, doi={10.1000/x_y}}
@misc{cohen2021gradient, title={Gradient Descent at the Edge of Stability}, year={2021},
  author={Cohen, Jeremy M. and Kaur, Simran and Li, Yuanzhi}, eprint={2103.00065}, archiveprefix={arXiv}}
"""
CHAPTER = r"""---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# The coin

:::{admonition} Before you start
**Prerequisites.** Counting.
**Reading time.** 5 minutes.
**Running time.** {{ time_coin_toss }}
**Follows.** No lecture.
:::

## The question

How often does a coin show heads {cite:p}`bernoulli1713ars`?

## The claim

Half of the time.

## Setting and notation

One toss is $X \in \{0, 1\}$, as in {eq}`eq:mean`.

$$
\bar X = \frac1n \sum_i X_i
$$ (eq:mean)

## Theory

:::{prf:theorem} Law of large numbers
:label: thm-large-numbers

The mean {eq}`eq:mean` tends to $1/2$.
:::

:::{prf:proof}
Chebyshev's inequality.
:::

## Experiments

Parameters first.

```{code-cell} ipython3
import matplotlib.pyplot as plt
import numpy as np
from dlt_helpers import claims

tosses = 2000  # per seed
```

Then the run.

```{code-cell} ipython3
heads = [np.random.default_rng(seed).integers(0, 2, tosses).mean() for seed in range(3)]
```

And the figure.

```{code-cell} ipython3
---
tags: [hide-input]
mystnb:
  image: {alt: "Three dots for three seeds, all of them within two hundredths of one half"}
  figure: {caption: "Three coins, all close to one half, see {eq}`eq:mean`.", name: fig-heads}
---
fig, ax = plt.subplots(figsize=(2, 1))
ax.plot(heads, "o")
plt.show()
```

Now the claim.

```{code-cell} ipython3
claims.claim(
    "coin-toss/half", "a fair coin shows heads half of the time", measured=heads, predicted=0.5,
    between=(0.45, 0.55), kind="theorem", source="thm-large-numbers", control=(0.9, "a loaded coin"),
)
```

## What this does not explain, and what would falsify it

A mean outside the band.

## Exercises

:::{exercise} Dice
:label: ex-dice

What of a die?
:::

:::{solution} ex-dice
:label: sol-dice
:class: dropdown

One in six.
:::

## Further reading

{cite:t}`gauss1823theoria`.
"""


def make(root, text=CHAPTER):
    """Write the sources of the book to ``root`` and execute them; return ``root``."""
    root = Path(root)
    (root / "chapters" / "results").mkdir(parents=True)
    (root / "references.bib").write_text(REFERENCES, "utf-8")
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: chapters/{NAME}\n", "utf-8")
    (root / "README.md").write_text("# A book\n\n<!-- claims -->\n<!-- /claims -->\n", "utf-8")
    (root / "chapters" / "index.md").write_text("# Start\n\n<!-- claims -->\n<!-- /claims -->\n", "utf-8")
    (root / "chapters" / "running.md").write_text(
        "# Running\n\n<!-- run times -->\n<!-- /run times -->\n", "utf-8"
    )
    source(root).write_text(text, "utf-8")
    assert execute.main([], root) == 0
    return root


def copy(book, to):
    """Copy an executed book, to be broken; return the copy."""
    return Path(shutil.copytree(book, Path(to) / "book"))


def source(root):
    """Return the path of the chapter's source."""
    return root / "chapters" / f"{NAME}.md"


def edit(path, pattern, replacement, count=1):
    """Replace the first match of a pattern in a file; fail if there is none."""
    text, found = re.subn(pattern, replacement, path.read_text("utf-8"), count=count, flags=re.DOTALL)
    assert found, f"nothing in {path.name} matches {pattern}"
    path.write_text(text, "utf-8")


def edit_notebook(root, change):
    """Apply ``change(code_cells)`` to the chapter's executed notebook."""
    path = source(root).with_suffix(".ipynb")
    notebook = nbformat.read(path, as_version=4)
    change([cell for cell in notebook.cells if cell.cell_type == "code"])
    nbformat.write(notebook, path)
