"""Claims: statements of the book, executed against their prediction, with a band and a negative control."""

import html
import json
import math
import os
import re
from dataclasses import asdict, dataclass

import numpy as np

KINDS = {
    "theorem": "the band follows from a proof: a violation would be a bug",
    "approximation": "an asymptotic or heuristic prediction",
    "observation": "an empirical regularity",
}
ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*")


class ClaimFailed(AssertionError):
    """A claim did not hold while ``DLT_STRICT=1`` was set."""


@dataclass(frozen=True)
class Claim:
    """A claim after its measurement; numbers are floats, ``nan`` where nothing was measured or predicted.

    ``spread`` is the sample standard deviation over seeds; ``low`` and ``high`` are the ends of the closed band;
    ``control`` is ``None`` or ``(measured, description)``; ``reason`` says why the claim fails, "" if it holds.
    """

    id: str
    statement: str
    kind: str
    predicted: float
    measured: float
    spread: float
    low: float
    high: float
    holds: bool
    seeds: int
    control: tuple[float, str] | None
    source: str
    preset: str
    reason: str = ""

    def record(self):
        """Return the claim as a dict that is valid JSON: infinite and missing numbers become ``None``."""
        plain = asdict(self)
        if self.control is not None:
            plain["control"] = {"measured": self.control[0], "description": self.control[1]}
        return json.loads(json.dumps(_finite(plain)))


def evaluate(id, statement, *, measured, between, predicted=None, kind, source, seeds=None, control=None):
    """Return the :class:`Claim` whose sign is ``low <= mean(measured) <= high`` with the control outside the band.

    Args:
        id: kebab case with the chapter in front, ``chapter/name``, unique in the book.
        statement: one plain sentence (Unicode symbols, no markup).
        measured: a number, or an array over seeds ``[n_seeds]``; the mean is tested, the spread reported.
        between: ``(low, high)``, closed; one end may be infinite. NaN never lies in a band.
        predicted: the number that theory gives, or None.
        kind: ``theorem``, ``approximation`` or ``observation`` (see ``KINDS``).
        source: bibliography key, or the label of the theorem on the page.
        seeds: how many independent runs stand behind ``measured``; default: its length.
        control: ``(measured, description)`` of a setting in which the statement must *not* hold.

    Raises:
        ValueError: for an id, kind or band that the contract does not allow; the message says what would be right.

    >>> evaluate("demo/half", "a fair coin shows heads half of the time", measured=[0.48, 0.53, 0.51],
    ...          between=(0.4, 0.6), kind="theorem", source="here", control=(0.9, "a loaded coin")).holds
    True
    """
    low, high = _checked_band(id, kind, between)
    values = np.atleast_1d(_array(measured))
    mean = float(values.mean()) if values.size else math.nan
    spread = float(values.std(ddof=1)) if values.size > 1 else math.nan
    if control is not None:
        control = (float(_array(control[0]).mean()), str(control[1]))
    reason = _reason(mean, low, high, control)
    return Claim(
        id, statement, kind, math.nan if predicted is None else float(predicted), mean, spread, low, high,
        reason == "", values.size if seeds is None else int(seeds), control, source,
        os.environ.get("DLT_PRESET", "ci"), reason,
    )  # fmt: skip


def claim(id, statement, *, measured, between, predicted=None, kind, source, seeds=None, control=None):
    """Show one line and a card saying whether ``low <= mean(measured) <= high``; arguments as in :func:`evaluate`.

    A claim that fails shows its reason and goes on, so that a reader may break things.

    Raises:
        ClaimFailed: if it fails and the environment variable ``DLT_STRICT`` is ``1``.
    """
    result = evaluate(
        id, statement, measured=measured, between=between, predicted=predicted, kind=kind, source=source,
        seeds=seeds, control=control,
    )  # fmt: skip
    _show(result)
    if not result.holds and os.environ.get("DLT_STRICT") == "1":
        raise ClaimFailed(f"{result.id}: {result.reason}")


def read(notebook):
    """Return the records of all claims in the outputs of ``notebook`` (nbformat 4, a dict), in order."""
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    return [output["metadata"]["dlt_claim"] for output in outputs if "dlt_claim" in output.get("metadata", {})]


def anchor(id):
    """Return the HTML id of the claim's card.

    >>> anchor("demo/half")
    'claim-demo-half'
    """
    return "claim-" + id.replace("/", "-")


def text(claim):
    """Return the claim as one line; what may differ between machines stands between ⟨ and ⟩."""
    return f"{'✓' if claim.holds else '✗'} {claim.id}: {claim.statement} ⟨{'; '.join(_facts(claim))}⟩"


def card(claim):
    """Return the claim as a small HTML card (class ``dlt-claim``), which ends in the comment ``dlt-claim``."""
    rows = "".join(f"<li>{html.escape(fact)}</li>" for fact in _facts(claim))
    state, word = ("dlt-holds", "✓ holds") if claim.holds else ("dlt-fails", "✗ fails")
    return (
        f'<div class="dlt-claim {state}" id="{anchor(claim.id)}">'
        f'<p class="dlt-claim-head"><strong class="dlt-sign">{word}</strong> '
        f'<span class="dlt-kind">{claim.kind}</span> <code>{html.escape(claim.id)}</code></p>'
        f'<p class="dlt-claim-statement">{html.escape(claim.statement)}</p>'
        f'<ul class="dlt-claim-facts">{rows}</ul></div><!--dlt-claim-->'
    )


def number(x):
    """Return ``x`` in four significant digits.

    >>> number(1.00437), number(float("inf")), number(1.7e-7)
    ('1.004', '∞', '1.7e-07')
    """
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    return f"{x:.4g}".replace("nan", "not measured")


def _facts(claim):
    spread = "" if math.isnan(claim.spread) else f" ± {number(claim.spread)} over {claim.seeds} seeds"
    facts = [f"measured {number(claim.measured)}{spread}", f"band [{number(claim.low)}, {number(claim.high)}]"]
    if not math.isnan(claim.predicted):
        facts.insert(0, f"predicted {number(claim.predicted)}")
    if claim.control is not None:
        facts.append(f"control {number(claim.control[0])}: {claim.control[1]}")
    facts.append(f"source: {claim.source}")
    return facts if claim.holds else [claim.reason, *facts]


def _reason(mean, low, high, control):
    if math.isnan(mean):
        return "nothing was measured (NaN)"
    if not low <= mean <= high:
        return f"measured {number(mean)} lies outside the band"
    if control is not None and math.isnan(control[0]):
        return "the control was not measured (NaN)"
    if control is not None and low <= control[0] <= high:
        return f"the control {number(control[0])} lies inside the band, so the check tells nothing"
    return ""


def _checked_band(id, kind, between):
    if not ID.fullmatch(id):
        raise ValueError(f"claim id {id!r} should be 'chapter/name' in kebab case, such as 'edge-of-stability/onset'")
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} of claim {id!r} should be one of {', '.join(KINDS)}")
    low, high = (float(end) for end in between)
    if not low < high or (math.isinf(low) and math.isinf(high)):
        raise ValueError(f"band {between} of claim {id!r} should be (low, high) with low < high, one of them finite")
    return low, high


def _array(values):
    """Return ``values`` (numbers, arrays or tensors on any device) as a float array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    elif isinstance(values, (list, tuple)):
        values = [float(value) for value in values]
    return np.asarray(values, dtype=float)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(claim):
    try:
        from IPython import display, get_ipython
    except ImportError:
        shell = None
    else:
        shell = get_ipython()
    if shell is None:
        print(text(claim))
        return
    data = {"text/plain": text(claim), "text/html": card(claim)}
    display.display(data, raw=True, metadata={"dlt_claim": claim.record()})
