"""Claims: what holds, what does not, what is shown, what is recorded; and the records of the whole book."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbval.plugin import get_sanitize_patterns

from book_tools import chapters, ledger
from book_tools.evidence import restored
from dlt_helpers import claims

SCHEMA = {
    "id", "statement", "kind", "predicted", "measured", "spread", "low", "high", "holds", "seeds", "control",
    "source", "preset", "reason",
}  # fmt: skip
GOOD = {"measured": [0.5, 0.51, 0.49], "between": (0.4, 0.6), "kind": "observation", "source": "here",
        "control": (0.9, "a loaded coin")}  # fmt: skip


def evaluated(id="demo/half", statement="half are heads", **changes):
    """A claim that holds, with changes."""
    return claims.evaluate(id, statement, **(GOOD | changes))


# what holds


def test_mean_of_the_seeds_is_tested_and_their_spread_reported():
    claim = evaluated(measured=[0.3, 0.5, 0.7])  # the ends lie outside the band, the mean inside
    assert claim.holds and claim.seeds == 3
    assert claim.measured == pytest.approx(0.5) and claim.spread == pytest.approx(0.2)
    assert "0.5 ± 0.2 over 3 seeds" in claims.text(claim)


@pytest.mark.parametrize("measured, holds", [(0.4, True), (0.6, True), (0.39, False), (0.61, False)])
def test_band_is_closed(measured, holds):
    assert evaluated(measured=measured).holds is holds


@pytest.mark.parametrize("measured", [math.nan, [0.5, math.nan, 0.5], [], torch.tensor([math.nan])])
@pytest.mark.parametrize("between", [(0.4, 0.6), (-math.inf, 0.6), (0.4, math.inf)])
def test_nan_and_nothing_never_hold(measured, between):
    claim = evaluated(measured=measured, between=between, control=None)
    assert not claim.holds and "nothing was measured" in claim.reason


@pytest.mark.parametrize(
    "control, reason", [(0.5, "lies inside the band"), (math.nan, "control was not measured")]
)
def test_control_that_tells_nothing_undoes_the_claim(control, reason):
    claim = evaluated(control=(control, "a coin"))
    assert not claim.holds and reason in claim.reason


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_infinite_measurement_leaves_a_one_sided_band(infinite):
    assert not evaluated(measured=infinite, between=(0.4, 0.6)).holds


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, lambda v: torch.tensor(v, requires_grad=True)]
)
def test_measured_may_be_anything_with_numbers(kind):
    assert evaluated(measured=kind([0.5, 0.51, 0.49])).measured == pytest.approx(0.5)


def test_scalar_has_no_spread():
    claim = evaluated(measured=0.5)
    assert math.isnan(claim.spread) and claim.seeds == 1 and "±" not in claims.text(claim)


def test_seeds_may_be_told():
    assert evaluated(measured=0.5, seeds=7).seeds == 7


# what is refused


@pytest.mark.parametrize(
    "id", ["half", "Demo/half", "demo/half_way", "demo/half/way", "demo/", "demo half/x", "", "demo/half\n"]
)
def test_bad_id(id):
    with pytest.raises(ValueError, match="kebab case"):
        evaluated(id=id)


def test_bad_kind():
    with pytest.raises(ValueError, match=r"'guess'.*should be one of theorem, approximation, observation"):
        evaluated(kind="guess")


@pytest.mark.parametrize(
    "band", [(0.6, 0.4), (0.5, 0.5), (-math.inf, math.inf), (math.nan, 0.6), (0.4, math.nan)]
)
def test_band_that_nothing_could_leave(band):
    with pytest.raises(ValueError, match="low < high"):
        evaluated(between=band)


# what is shown


@pytest.fixture
def shown(monkeypatch):
    """Return a function that makes a claim in an interactive shell and returns the output it displays."""
    InteractiveShell.instance()
    monkeypatch.delenv("DLT_STRICT", raising=False)

    def show(**changes):
        with capture_output() as captured:
            claims.claim("demo/half", changes.pop("statement", "half are heads"), **(GOOD | changes))
        (output,) = captured.outputs
        return output

    yield show
    InteractiveShell.clear_instance()


def test_claim_that_holds_shows_its_sign(shown):
    output = shown()
    assert output.data["text/plain"].startswith(
        "✓ demo/half: half are heads ⟨measured 0.5 ± 0.01 over 3 seeds; "
    )
    assert 'class="dlt-claim dlt-holds" id="claim-demo-half"' in output.data["text/html"]
    assert output.data["text/html"].endswith("</div><!--dlt-claim-->")


def test_claim_that_fails_shows_its_reason_and_goes_on(shown):
    output = shown(measured=0.7)
    assert (
        output.data["text/plain"].startswith("✗ demo/half")
        and "lies outside the band" in output.data["text/plain"]
    )
    assert "✗ fails" in output.data["text/html"] and output.metadata["dlt_claim"]["holds"] is False


def test_strict_raises_after_it_was_shown(shown, monkeypatch):
    monkeypatch.setenv("DLT_STRICT", "1")
    shown()
    with pytest.raises(claims.ClaimFailed, match=r"demo/half: measured 0\.7 lies outside"):
        shown(measured=0.7)


def test_html_is_escaped(shown):
    output = shown(
        statement="a < b & <script>alert(1)</script>", source="<i>me</i>", control=(0.9, "<b>bold</b>")
    )
    assert not re.search("<script|<i>|<b>", output.data["text/html"])
    assert "a &lt; b &amp; &lt;script&gt;" in output.data["text/html"]


def test_works_without_ipython(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    claims.claim("demo/half", "half are heads", **GOOD)
    assert capsys.readouterr().out.startswith("✓ demo/half")


def test_anchor_is_the_id_of_the_card():
    assert f'id="{claims.anchor("demo/half")}"' in claims.card(evaluated())


# what is compared: nbval with our sanitise file


def sanitised(text):
    """Return ``text`` as nbval compares it."""
    path = Path(__file__).with_name("nbval_sanitise.cfg")
    for regex, replace in get_sanitize_patterns(path.read_text("ascii")):
        text = re.sub(regex, replace, text)
    return text


@pytest.mark.parametrize("form", [claims.text, claims.card])
def test_other_numbers_compare_equal(form):
    one = evaluated()
    other = evaluated(measured=[0.52, 0.53, 0.51, 0.5], control=(0.87, "a loaded coin"))
    assert form(one) != form(other) and sanitised(form(one)) == sanitised(form(other))


@pytest.mark.parametrize(
    "changed",
    [
        {"measured": 0.7},
        {"id": "demo/third"},
        {"statement": "a third are heads"},
        {"control": (0.5, "a coin")},
    ],
)
def test_other_sign_id_or_statement_compares_unequal(changed):
    assert sanitised(claims.text(evaluated())) != sanitised(claims.text(evaluated(**changed)))


def test_text_around_a_claim_is_compared():
    one, other = (
        f"{claims.text(evaluated())}\nloss {loss}\n{claims.card(evaluated())} end" for loss in (0.1, 0.2)
    )
    assert sanitised(one) != sanitised(other)


def test_two_claims_in_one_output_are_both_compared():
    texts = [claims.text(evaluated()) + " " + claims.text(evaluated(measured=m)) for m in (0.5, 0.7)]
    assert sanitised(texts[0]) != sanitised(texts[1])


@pytest.mark.parametrize("one, other", [("at 0x7f01 in", "at 0x7f0a2 in"), ("took 1.2 s", "took 13 s"),
                                        ("/tmp/ipykernel_12/3.py:1", "/a/ipykernel_9/77.py:1")])  # fmt: skip
def test_addresses_times_and_paths_compare_equal(one, other):
    assert sanitised(one) == sanitised(other)


@pytest.mark.parametrize(
    "one, other", [("3 seeds", "4 seeds"), ("0.31", "0.32"), ("step 12 loss", "step 13 loss")]
)
def test_numbers_elsewhere_compare_unequal(one, other):
    assert sanitised(one) != sanitised(other)


# what is recorded


def test_record_schema(shown):
    record = shown(predicted=0.5).metadata["dlt_claim"]
    assert set(record) == SCHEMA
    assert record["control"] == {"measured": 0.9, "description": "a loaded coin"}
    assert (record["low"], record["high"], record["predicted"], record["seeds"]) == (0.4, 0.6, 0.5, 3)
    assert record["holds"] is True and record["preset"] in ("ci", "gpu") and record["reason"] == ""


def test_record_is_valid_json_whatever_is_missing():
    record = evaluated(measured=math.nan, between=(-math.inf, 0.6), control=(math.inf, "diverges")).record()
    json.dumps(record, allow_nan=False)
    assert record["measured"] is record["low"] is record["predicted"] is record["control"]["measured"] is None


@pytest.mark.parametrize(
    "changes", [{}, {"measured": 0.5, "between": (-math.inf, 0.6), "predicted": 0.5, "control": None}]
)
def test_record_keeps_everything_that_is_shown(changes):
    claim = evaluated(**changes)
    again = restored(json.loads(json.dumps(claim.record())))
    assert (claims.text(again), claims.card(again)) == (claims.text(claim), claims.card(claim))


def test_preset_is_recorded(monkeypatch):
    monkeypatch.setenv("DLT_PRESET", "gpu")
    assert evaluated().preset == "gpu"


def test_read_finds_claims_in_order_and_nothing_else():
    outputs = [
        {"output_type": "stream", "text": "x"},
        {"output_type": "display_data", "metadata": {"dlt_claim": {"id": "a/b"}}},
    ]
    last = [{"output_type": "display_data", "metadata": {"dlt_claim": {"id": "c/d"}}}]
    assert [
        r["id"] for r in claims.read({"cells": [{"outputs": outputs}, {"source": "text"}, {"outputs": last}]})
    ] == ["a/b", "c/d"]


# the records of the book


RECORDS = [(name, record) for name, of_chapter in ledger.records().items() for record in of_chapter]


def test_ids_are_unique_and_there_are_claims():
    ids = [record["id"] for _, record in RECORDS]
    assert ids and len(set(ids)) == len(ids)


@pytest.mark.parametrize("name, record", RECORDS, ids=[record["id"] for _, record in RECORDS])
def test_record_of_the_book(name, record):
    assert set(record) == SCHEMA
    again = restored(record)
    assert again.record() == record
    checked = claims.evaluate(
        again.id, again.statement, measured=again.measured, between=(again.low, again.high),
        predicted=record["predicted"], kind=again.kind, source=again.source, seeds=again.seeds,
        control=again.control,
    )  # fmt: skip
    assert checked.holds, checked.reason
    assert checked.id.split("/")[0] == name.replace("_", "-")


def test_every_executed_chapter_has_records():
    assert set(chapters.executed()) == {name for name, _ in RECORDS}
