"""The chapter contract: each rule a function from a chapter to its faults, in words."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import nbformat

from book_tools import chapters, myst, run_times
from book_tools.bibliography import Bibliography

SECTIONS = (
    "The question", "The claim", "Setting and notation", "Theory", "Experiments",
    "What this does not explain, and what would falsify it", "Exercises", "Further reading",
)  # fmt: skip
FACTS = ("prerequisites", "reading time", "running time", "follows")
MACHINE = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt)/\w|[A-Z]:\\\\?Users|site-packages|ipykernel_\d"
)
BUDGET = 120  # seconds that a chapter may take under the preset ci
RULES = []


@dataclass(frozen=True)
class Chapter:
    """A chapter as it lies in the checkout: the source, and the executed notebook beside it."""

    name: str
    root: Path

    @cached_property
    def text(self):
        """The Markdown source."""
        return chapters.source(self.name, self.root).read_text("utf-8")

    @cached_property
    def derived(self):
        """The notebook that follows from the source, without outputs."""
        return chapters.derive(chapters.source(self.name, self.root))

    @cached_property
    def notebook(self):
        """The executed notebook, without cells if there is none."""
        path = chapters.notebook(self.name, self.root)
        return nbformat.read(path, as_version=4) if path.exists() else nbformat.v4.new_notebook()

    @property
    def code(self):
        """The code cells of the executed notebook, numbered from 1."""
        return enumerate((cell for cell in self.notebook.cells if cell.cell_type == "code"), 1)

    @cached_property
    def prose(self):
        """The Markdown of all cells of the source."""
        return "\n\n".join(cell.source for cell in self.derived.cells if cell.cell_type == "markdown")

    @cached_property
    def sections(self):
        """``{heading: text}`` of the ``##`` sections, in order."""
        parts = re.split(r"^## +(.+?)\s*$", self.prose, flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    @cached_property
    def directives(self):
        """All directives of the prose, also nested ones."""
        return myst.directives(self.prose)

    @cached_property
    def bibliography(self):
        """The bibliography of the book."""
        return Bibliography.of(self.root)


def rule(check):
    """Register a check; it returns the list of faults, empty if the chapter keeps the rule."""
    RULES.append(check)
    return check


def faults(chapter):
    """Return all faults of a chapter, each with the name of the rule in front."""
    return [f"{check.__name__}: {fault}" for check in RULES for fault in check(chapter)]


@rule
def pair_agrees(chapter):
    """The notebook's cells are those that follow from the source: kind, text, metadata, ids, in order."""
    want, have = ([_essence(cell) for cell in nb.cells] for nb in (chapter.derived, chapter.notebook))
    for i, (expected, found) in enumerate(zip(want, have, strict=False), 1):
        if expected != found:
            line = chapters.line_of(expected[1], chapters.source(chapter.name, chapter.root))
            return [f"cell {i} of the notebook is not that of the source (line {line}); run make notebooks"]
    same = len(want) == len(have)
    return [] if same else [f"the source has {len(want)} cells, the notebook {len(have)}; run make notebooks"]


@rule
def executed_in_order(chapter):
    """Every code cell was executed, once, in order, without an error or a word on stderr."""
    wrong = [
        f"code cell {i} has execution count {cell.execution_count}"
        for i, cell in chapter.code
        if cell.execution_count != i
    ]
    outputs = [(i, output) for i, cell in chapter.code for output in cell.outputs]
    wrong += [f"code cell {i} ends in an error" for i, output in outputs if output.output_type == "error"]
    return wrong + [
        f"code cell {i} writes to stderr: {o.text[:60]!r}" for i, o in outputs if o.get("name") == "stderr"
    ]


@rule
def no_trailing_semicolon(chapter):
    """No code cell ends in a semicolon: nbval sees the value that it hides."""
    return [
        f"code cell {i} ends in a semicolon" for i, cell in chapter.code if cell.source.rstrip().endswith(";")
    ]


@rule
def colon_fences_only(chapter):
    """Directives open with colons: a backtick in the title of a backtick fence swallows the rest."""
    lines = [
        line
        for line in chapter.text.splitlines()
        if re.match(r"\s*(`{3,}|~{3,})\{(?!code-cell|raw-cell)", line)
    ]
    return [f"open this directive with colons: {line.strip()}" for line in lines]


@rule
def no_glue(chapter):
    """Nothing is glued: glue needs myst-nb, which Colab has not."""
    used = [f"code cell {i} glues" for i, cell in chapter.code if re.search(r"\bglue\b", cell.source)]
    return used + ["the text uses a glue role or directive"] * ("{glue" in chapter.text)


@rule
def cells_are_short(chapter):
    """A code cell has at most 20 lines that are not empty."""
    long = [(i, sum(bool(line.strip()) for line in cell.source.splitlines())) for i, cell in chapter.code]
    return [f"code cell {i} has {lines} lines; at most 20" for i, lines in long if lines > 20]


@rule
def prose_between_code(chapter):
    """Between any two code cells stands prose."""
    kinds = [cell.cell_type for cell in chapter.derived.cells if cell.source.strip()]
    code = [i for i, kind in enumerate(kinds) if kind == "code"]
    return [
        f"code cells {n} and {n + 1} have no prose between them"
        for n, (i, j) in enumerate(pairwise(code), 1)
        if j == i + 1
    ]


@rule
def sections_in_order(chapter):
    """The eight sections of the contract are there, in order, none empty, nothing before or after them."""
    headings = list(chapter.sections)
    missing = [section for section in SECTIONS if section not in headings]
    if missing:
        return [f"there is no section '## {section}'" for section in missing]
    required = [heading for heading in headings if heading in SECTIONS]
    wrong = [f"the sections stand in the order {required}"] * (tuple(required) != SECTIONS)
    wrong += ["the first section is not 'The question'"] * (headings[0] != SECTIONS[0])
    wrong += ["the last section is not 'Further reading'"] * (headings[-1] != SECTIONS[-1])
    return wrong + [
        f"section '{name}' is empty" for name in SECTIONS if not re.search(r"\w", chapter.sections[name])
    ]


@rule
def front_matter(chapter):
    """Before the first section stand prerequisites, reading time, measured running time, and the lecture."""
    head = chapter.prose.split("\n## ")[0]
    wrong = [
        f"the front matter does not state '**{fact.capitalize()}**'"
        for fact in FACTS
        if f"**{fact}" not in head.lower()
    ]
    measured = f"{{{{ time_{chapter.name} }}}}"
    return wrong + [f"the running time is not {measured}, the measured one"] * (measured not in head)


@rule
def run_time_in_budget(chapter):
    """The measured run time belongs to this source and lies within the budget."""
    entry = run_times.read(chapter.root).get(chapter.name, {}).get("ci")
    if entry is None or entry["source_hash"] != run_times.source_hash(chapter.name, chapter.root):
        return ["no run time was measured for this source; run make notebooks"]
    return [f"the chapter takes {entry['seconds']} s; at most {BUDGET}"] * (entry["seconds"] > BUDGET)


@rule
def exercises_have_solutions(chapter):
    """Every exercise has a label and a solution that opens on demand; there is at least one."""
    kinds = ("exercise", "exercise-start")
    exercises = [block for block in chapter.directives if block.name in kinds]
    solutions = {
        block.argument: block for block in chapter.directives if block.name in ("solution", "solution-start")
    }
    wrong = ["there is no exercise"] * (not exercises)
    wrong += [f"the exercise {block.argument!r} has no label" for block in exercises if not block.label]
    wrong += [
        f"exercise {b.label} has no solution" for b in exercises if b.label and b.label not in solutions
    ]
    closed = [name for name, block in solutions.items() if "dropdown" not in block.options.get("class", "")]
    return wrong + [f"the solution of {name} is not a dropdown" for name in closed]


@rule
def citations_exist(chapter):
    """Every cited key is in references.bib."""
    cited = [
        key.strip()
        for role, _, keys in myst.roles(chapter.text)
        if role.startswith("cite")
        for key in keys.split(",")
    ]
    return [f"references.bib has no {key}" for key in sorted(set(cited)) if key not in chapter.bibliography]


@rule
def no_machine_paths(chapter):
    """Neither text nor outputs name a path of the machine they were made on."""
    texts = [("the source", chapter.text)]
    for i, cell in chapter.code:
        for output in cell.outputs:
            shown = [
                output.get("text", ""),
                *(v for k, v in output.get("data", {}).items() if k.startswith("text/")),
            ]
            texts += [(f"the output of code cell {i}", str(text)) for text in shown]
    return [f"{where} names {match[0]!r}" for where, text in texts if (match := MACHINE.search(text))]


def _essence(cell):
    return cell.cell_type, cell.source, {key: cell.metadata.get(key) for key in chapters.KEPT}, cell.id
