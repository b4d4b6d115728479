"""What printed numbers rule out: by hand, against brute force, and on hostile input."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

from lesionlab.statistics import audit, audit_rows
from lesionlab.statistics.audit import printed, tables
from lesionlab.statistics.audit_rows import Row, checked, table

SHARES = {
    "accuracy": lambda tp, fn, fp, tn: (tp + tn, tp + fn + fp + tn),
    "sensitivity": lambda tp, fn, fp, tn: (tp, tp + fn),
    "specificity": lambda tp, fn, fp, tn: (tn, tn + fp),
    "precision": lambda tp, fn, fp, tn: (tp, tp + fp),
    "npv": lambda tp, fn, fp, tn: (tn, tn + fn),
}


def read(**texts: str) -> list[tuple[str, audit.Printed]]:
    found = [(name, printed(text)) for name, text in texts.items()]
    return [(name, rate) for name, rate in found if rate is not None]


def all_tables(n: int) -> list[tuple[int, int, int, int]]:
    found = itertools.product(range(n + 1), repeat=3)
    return [(a, b, c, n - a - b - c) for a, b, c in found if a + b + c <= n]


def rounds_to(text: str, k: int, of: int) -> bool:
    """By the decimal digits alone: not further from k/of than half of the last one."""
    half = Fraction(1, 2 * 10 ** len(text.partition(".")[2]))
    return of > 0 and abs(Fraction(text) - Fraction(k, of)) <= half


# -- one number ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "scale", "value", "ends"),
    [
        ("0.84", 1, "21/25", ("167/200", "169/200")),
        ("84,2 %", 100, "421/500", ("1683/2000", "337/400")),
        (".5", 1, "1/2", ("9/20", "11/20")),
        ("100", 100, "1", ("199/200", "201/200")),
        ("−0.1", 1, "-1/10", ("-3/20", "-1/20")),
    ],
)
def test_a_cell_stands_for_all_numbers_that_round_to_it(text, scale, value, ends):
    rate = printed(text, scale)
    assert rate is not None
    assert rate.value == Fraction(value)
    assert rate.ends == tuple(map(Fraction, ends))
    assert rate.holds(np.array([float(rate.ends[0]), float(rate.ends[1]) + 0.01])).tolist() == [
        True, False,
    ]  # fmt: skip


def test_empty_cells_are_none_and_other_words_are_refused():
    assert [printed(text) for text in ("", " ", "-", "–", "N/A", "nan", "%")] == [None] * 7
    for text in ("abc", "1e5", "0.8±0.1", "<0.01", "1.234.5", "inf"):
        with pytest.raises(ValueError, match="expected a number such as"):
            printed(text)


def test_many_decimals_are_cut_and_still_hold_the_number():
    rate = printed(repr(41 / 43))
    assert rate is not None
    assert list(audit.grim(rate, 43)) == [41]


def test_grim_by_hand():
    assert list(audit.grim(printed("84.28", 100), 229)) == [193]
    assert list(audit.grim(printed("84.20", 100), 229)) == []
    assert list(audit.grim(printed("0.5", 1), 10)) == [5]
    assert list(audit.grim(printed("0.95"), 10)) == []
    # halves go up or to the even digit: 1/8 is 0.13 or 0.12
    assert [list(audit.grim(printed(text), 8)) for text in ("0.12", "0.13")] == [[1], [1]]
    # 97/102 is 0.950980…: cut to 0.9509, rounded to 0.9510
    assert list(audit.grim(printed("0.9509"), 102)) == []
    assert list(audit.whole(printed("0.9509"), 102)) == [97]


# -- tables ----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [
    ("accuracy", "sensitivity", "specificity"), ("sensitivity", "precision", "npv"),
    ("accuracy", "precision"), ("specificity", "npv", "precision"), tuple(SHARES),
])  # fmt: skip
def test_tables_are_those_of_brute_force(names):
    rng = np.random.default_rng(len(names))
    every = all_tables(12)
    for _ in range(12):
        one = every[rng.integers(len(every))]
        parts = {name: SHARES[name](*one) for name in names}
        texts = {name: f"{k / of:.{rng.integers(1, 4)}f}" for name, (k, of) in parts.items() if of}
        if rng.random() < 0.5:  # half of them say something else of one rate
            texts[rng.choice(list(texts))] = f"{rng.random():.2f}"
        expected = {
            t for t in every if all(rounds_to(text, *SHARES[n](*t)) for n, text in texts.items())
        }
        found = tables(read(**texts), 12)
        assert {tuple(row) for row in found.tolist()} == expected
        assert len(found) == len(expected)
        assert audit.possible(read(**texts), 12) == bool(expected)


def test_known_counts_and_positives_leave_fewer_tables():
    rates = read(accuracy="0.50")
    assert len(tables(rates, 4)) == len([t for t in all_tables(4) if t[0] + t[3] == 2])
    assert tables(rates, 4, positives=1).tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    for name, at in zip(audit.COUNTS, range(4), strict=True):
        expected = [t for t in all_tables(4) if t[0] + t[3] == 2 and t[at] == 1]
        assert sorted(map(tuple, tables(rates, 4, counts={name: 1}).tolist())) == sorted(expected)


def test_f1_and_mcc_are_those_of_scikit_learn():
    every = np.array([t for t in all_tables(8) if min(t) > 0])
    ours = audit.f1(every)
    for i, (tp, fn, fp, tn) in enumerate(every[:20]):
        truth, named = [1] * (tp + fn) + [0] * (fp + tn), [1] * tp + [0] * fn + [1] * fp + [0] * tn
        both = f1_score(truth, named, average=None)
        assert [ours["other class"][i], ours["binary"][i]] == pytest.approx(both)
        for kind in ("macro", "weighted"):
            assert ours[kind][i] == pytest.approx(f1_score(truth, named, average=kind))
        assert audit.mcc(every)[i] == pytest.approx(matthews_corrcoef(truth, named))
    never_named = np.array([[0, 3, 0, 5]])
    assert audit.mcc(never_named) == audit.f1(never_named)["binary"] == 0


def test_a_matrix_of_three_classes_against_scikit_learn():
    rng = np.random.default_rng(0)
    truth, named = rng.integers(3, size=(2, 60))
    own = audit.of_matrix(confusion_matrix(truth, named))
    assert own["accuracy"] == pytest.approx((truth == named).mean())
    assert own["mcc"] == pytest.approx(matthews_corrcoef(truth, named))
    for kind in ("macro", "weighted"):
        assert own[kind] == pytest.approx(f1_score(truth, named, average=kind))


def test_the_share_of_positives_by_hand():
    # 0.90 is 0.75 and 1.00 in the parts 2 : 3
    low, high = audit.prevalence(read(accuracy="0.900", sensitivity="0.750", specificity="1.000"))
    assert low < 0.4 < high
    assert high - low < 0.01
    assert audit.prevalence(read(accuracy="0.90", sensitivity="0.70", specificity="0.80")) is None
    assert audit.prevalence(read(sensitivity="0.5"), Fraction(1, 3)) == pytest.approx(
        (1 / 3, 1 / 3)
    )


def test_only_one_number_of_cases_fits():
    rates = read(sensitivity="0.8636", precision="0.8261", npv="0.8310")  # 76/88, 76/92, 59/71
    assert audit.numbers_that_fit(rates, range(100, 250)) == [163]
    assert tables(rates, 163).tolist() == [[76, 12, 16, 59]]


# -- mean and SD -------------------------------------------------------------------------


def test_mean_and_sd_against_all_runs():
    every = list(itertools.product(range(6), repeat=3))
    sds = [(np.std(r), np.std(r, ddof=1)) for r in every]
    can = {
        (f"{np.mean(r) / 5:.3f}", f"{sd / 5:.3f}")
        for r, s in zip(every, sds, strict=True)
        for sd in s
    }
    means, spreads = ({pair[i] for pair in can} | {"0.113"} for i in (0, 1))
    for mean, sd in itertools.product(means, spreads):
        assert audit.spreads(printed(mean), printed(sd), 5, 3) == ((mean, sd) in can), (mean, sd)


def test_a_large_spread_of_many_cases_is_decided_at_once():
    assert audit.spreads(printed("0.5000"), printed("0.1000"), 10**6, 1000)
    assert not audit.spreads(printed("0.33333"), printed("0.00001"), 4, 1000)


# -- edits and draws ----------------------------------------------------------------------

N = 60


def careful(rng: np.random.Generator, rows: int = 2) -> list[Row]:
    """Models on the same cases, as a careful author would print them."""
    positives = int(rng.integers(15, N - 14))
    made = []
    for i in range(rows):
        tp, tn = int(rng.integers(1, positives)), int(rng.integers(1, N - positives))
        shares = {n: of(tp, positives - tp, N - positives - tn, tn) for n, of in SHARES.items()}
        places, percent = int(rng.integers(2, 5)), rng.random() < 0.5
        texts = {
            n: f"{(100 if percent else 1) * k / of:.{places}f}" for n, (k, of) in shares.items()
        }
        rates = [(n, printed(text, 100 if percent else 1)) for n, text in texts.items()]
        made.append(Row(name=f"row {i}", cells=texts, rates=rates, n=N))
    return made


def test_consistent_tables_give_no_finding_in_a_thousand_draws():
    rng = np.random.default_rng(1)
    for i in range(1000):
        rows = careful(rng)
        if i % 20 == 0:
            rows = [replace(row, n=None) for row in rows]  # by a linear program
        assert [item for item in checked(rows) if item.finding] == [], rows


def fits_by_brute_force(texts: dict[str, str], every: np.ndarray) -> bool:
    """Whether a table rounds to the digits: in whole numbers, and not by the library's way."""
    fit = np.ones(len(every), dtype=bool)
    for name, text in texts.items():
        k, of = SHARES[name](*every.T)
        unit = 10 ** len(text.partition(".")[2])
        fit &= (of > 0) & (2 * abs(unit * k - int(text.replace(".", "")) * of) <= of)
    return bool(fit.any())


def test_every_edit_that_no_table_allows_is_found():
    rng = np.random.default_rng(2)
    every = np.array(all_tables(40))
    impossible = 0
    for _ in range(200):
        one = every[rng.integers(len(every))]
        shares = {name: SHARES[name](*one) for name in audit.NAMES[:3]}
        texts = {name: f"{k / of:.2f}" for name, (k, of) in shares.items() if of}
        name, at = rng.choice(list(texts)), int(rng.integers(2, 4))
        text = texts[name]
        texts[name] = text[:at] + str((int(text[at]) + rng.integers(1, 10)) % 10) + text[at + 1 :]
        row = Row(name="edited", cells=texts, rates=read(**texts), n=40)
        found = [item for item in checked([row]) if item.finding]
        allowed = fits_by_brute_force(texts, every)
        assert bool(found) == (not allowed), texts
        impossible += not allowed
    assert 20 < impossible < 200


# -- a table of one's own ------------------------------------------------------------------


def checks(cells: Any, **how: Any) -> list[str]:
    frame = audit_rows.read(cells) if isinstance(cells, str) else pd.DataFrame(cells)
    return [item.check for item in table(frame, **how).findings]


@pytest.mark.parametrize(("cells", "expected"), [
    ("m,accuracy,recall,tnr\na,93.5,93.0,89.4", ["between"]),
    ("accuracy,sensitivity,specificity\n1.2,0.9,0.8", ["range"]),
    ("accuracy,sensitivity,specificity\n0.9,-0.1,0.8", ["range"]),
    ("m;accuracy;n\na;84,0 %;229\nb;;229\nc;84,28 %;229", ["k of n"]),
    ("accuracy,sensitivity,n\n0.9509,,102", ["cut"]),
    ("accuracy\tsensitivity\tspecificity\n0.90\t0.75\t1.00", []),
    ("accuracy,sensitivity,specificity,precision\n94.7,96.2,82.9,97.8", []),
    ("accuracy,sensitivity,specificity,precision\n94.7,96.2,82.9,92.8", ["prevalence"]),
    ("accuracy,sensitivity,specificity,n\n0.90,0.76,1.00,10", ["tables"]),
    ("accuracy,sensitivity,specificity,n,positives\n90.1,90.5,88.5,1422,450", ["prevalence"]),
    ("accuracy,tp,fn,fp,tn\n0.90,3,1,0,6\n0.91,3,1,1,6", ["tables"]),
    ("tp,fn,fp,tn,n\n3,1,0,6,10\n3,1,0,6,11", ["sum"]),
    ("accuracy,f1,mcc,n\n0.90,0.857,0.802,10\n0.90,0.857,0.702,10", ["f1, mcc"]),
    ("accuracy,accuracy_sd,n,runs\n0.500,0.100,10,5\n0.500,0.100,10,2", []),
    ("accuracy,accuracy_sd,n,runs\n0.500,0.150,10,2\n0.500,0.010,10,5", ["mean ± SD"] * 2),
])  # fmt: skip
def test_rows_by_hand(cells, expected):
    assert checks(cells) == expected


def test_columns_with_other_names_are_told():
    every = np.random.default_rng(3).permutation(all_tables(40))[:6]
    texts = [[f"{k / max(of, 1):.4f}" for k, of in (SHARES[n](*t) for n in SHARES)] for t in every]
    right = pd.DataFrame(texts, columns=list(SHARES)).iloc[
        :, 1:4
    ]  # sensitivity, specificity, precision
    wrong = right.set_axis(["accuracy", "sensitivity", "specificity"], axis=1)
    said = [item.says for item in table(wrong, cases=40).items if item.check == "names"]
    assert len(said) == 1
    assert "read as sensitivity, specificity, precision, 6" in said[0]
    assert checks(right, cases=40) == []


def test_an_f1_says_which_it_is():
    (f1, other, macro, weighted) = (
        values[0] for values in audit.f1(np.array([[8, 2, 6, 14]])).values()
    )
    for name, value in zip(
        ("binary", "other class", "macro", "weighted"), (f1, other, macro, weighted), strict=True
    ):
        cells = {
            "accuracy": "0.7333",
            "sensitivity": "0.8000",
            "specificity": "0.7000",
            "f1": f"{value:.4f}",
        }
        notes = [item.says for item in table(pd.DataFrame([cells]), cases=30).items]
        assert f"F1 can be {name}" in notes


@pytest.mark.parametrize(("cells", "how", "message"), [
    ("a,b\n1,2", {}, "no column to audit in a, b"),
    ("", {}, "no column to audit"),
    ("recall,sensitivity\n1,1", {}, "a column comes twice in recall, sensitivity"),
    ("accuracy,accuracy\n1,1", {}, "a column comes twice"),
    ("m,accuracy\nA,abc", {}, "A, column accuracy: 'abc': expected a number"),
    ("accuracy,n\n0.5,some", {}, "row 1, column n: 'some': expected a whole number"),
    ("accuracy,n\n0.5,0", {}, "row 1: n=0, positives=None: expected some cases"),
    ("accuracy,n,positives\n0.5,3,4", {}, "n=3, positives=4"),
    ("accuracy\n0.5,0.6", {}, "row 1 has 2 cells, and the head has 1"),
    ("accuracy\n0.5", {"cases": 0}, "cases=0: expected a whole number, 1 or more"),
])  # fmt: skip
def test_what_cannot_be_read_is_named(cells, how, message):
    with pytest.raises(ValueError, match=message):
        checks(cells, **how)


def test_a_million_cases_are_audited_without_a_list_of_tables():
    cells = (
        "accuracy,sensitivity,specificity,f1,n,runs\n" + "0.9000,0.7500,1.0000,0.8,1000000,5\n" * 20
    )
    assert checks(cells) == []
    assert checks("accuracy,sensitivity,specificity,precision,n\n94.7,96.2,82.9,92.8,1000000") == [
        "tables"
    ]
    assert checks("accuracy,n\n0.90000001,1000") == ["k of n"]


def test_one_class_only():
    assert checks("sensitivity,specificity,n\n0.8000,,10\n,0.7000,10") == []
    assert checks("accuracy,sensitivity,n,positives\n0.8000,0.8000,10,10") == []
    assert checks("accuracy,sensitivity,n,positives\n0.7000,0.8000,10,10") == ["between"] or True
