"""Examples for the steps of a scale: by the rule that is printed, and by nothing else."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lesionlab import atlas
from lesionlab.attributes import RATING_NAMES
from lesionlab.crops import Crop
from lesionlab.sources import lidc
from lesionlab.sources.slices import Slices


def readings(**nodules: list[float]) -> pd.DataFrame:
    """One row per reading of margin and of calcification, the same numbers for both."""
    rows = [(name, value) for name, values in nodules.items() for value in values]
    made = pd.DataFrame(rows, columns=["lesion_id", "margin"])
    return made.assign(calcification=made["margin"])


HAND = readings(
    a=[1, 1, 1, 3],
    b=[1, 1, 1, 2],
    c=[1, 5, 5, 5],
    d=[3, 3, 5, 5],
    e=[1, 1, 1],
    f=[4, 2],
    g=[4],
    h=[1, 1, 1, 1, 1],
)


def chosen(table: pd.DataFrame) -> dict[tuple[int, str], str]:
    return {(row.step, row.kind): row.lesion_id for row in table.itertuples()}


def test_the_best_agreed_and_the_furthest_apart_are_found() -> None:
    table = atlas.examples(HAND, "margin")
    found = chosen(table)
    # three of four said 1 in a and b, but b's readers spread less; h has five readers
    assert found[1, "agree"] == "b"
    assert found[1, "disagree"] == "c"
    assert (found[5, "agree"], found[5, "disagree"]) == ("c", "d")
    # d has two of four, a has one of four
    assert (found[3, "agree"], found[3, "disagree"]) == ("d", "a")
    # only b said 2 among those with four readers, so that nobody is left to disagree
    assert found[2, "agree"] == "b"
    assert (2, "disagree") not in found
    # no nodule with four readers has a 4, none with three: f has two
    assert found[4, "agree"] == "f"
    assert (4, "disagree") not in found
    row = table.set_index(["step", "kind"]).loc[(1, "agree")]
    assert (row["n_readers"], row["n_step"], row["share"], row["spread"]) == (4, 3, 0.75, 1)
    assert row["readings"] == (1, 1, 1, 2)


def test_where_codes_have_no_order_the_spread_is_a_number_of_answers() -> None:
    given = readings(a=[1, 1, 1, 6], b=[1, 2, 2, 3], c=[1, 1, 1, 2])
    tables = [atlas.examples(given, "calcification", steps=[1], seed=s) for s in range(20)]
    # a and c are equal: 1 and 6 are no further apart than 1 and 2
    assert {chosen(table)[1, "agree"] for table in tables} == {"a", "c"}
    assert tables[0]["spread"].tolist() == [1, 2]
    assert chosen(tables[0])[1, "disagree"] == "b"


def test_equals_are_drawn_by_the_seed_and_not_by_the_order_of_rows() -> None:
    given = readings(**{f"n{i:02}": [3, 3, 3, 3] for i in range(30)})
    seen, again = (
        [chosen(atlas.examples(table, "margin", seed=s))[3, "agree"] for s in range(40)]
        for table in (given, given.sample(frac=1, random_state=1))
    )
    assert len(set(seen)) > 10
    assert again == seen


def test_a_step_that_nobody_gave_has_no_example_and_is_counted() -> None:
    table = atlas.coverage(readings(a=[1, 1, 2, 2], b=[1], c=[5, 5, 5, 5, 5]), "margin")
    assert list(table.index) == [1, 2, 3, 4, 5]
    assert table["n_readings"].tolist() == [3, 2, 0, 0, 5]
    assert table["n_nodules"].tolist() == [2, 1, 0, 0, 1]
    assert table["share"].tolist() == [0.3, 0.2, 0, 0, 0.5]
    # c has five readers
    assert table["most"].tolist() == [2, 2, 0, 0, 0]
    assert table.loc[5, "word"] == "Sharp"
    assert not (atlas.examples(HAND.iloc[:0], "margin")["step"] > 0).any()


def test_missing_ratings_do_not_count() -> None:
    given = readings(a=[1, 1, 1, np.nan], b=[1, 2, 2, 2])
    assert chosen(atlas.examples(given, "margin", steps=[1]))[1, "agree"] == "b"
    assert atlas.coverage(given, "margin").loc[1, "n_readings"] == 4
    rest = atlas.examples(given, "margin", steps=[1], lesion_ids=["a"])
    assert rest["readings"].tolist() == [(1, 1, 1, None)]
    assert rest["n_readers"].tolist() == [3]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"steps=\[0, 6\] of margin"):
        atlas.examples(HAND, "margin", steps=[0, 6])
    for name in ("margins", "texture"):  # no rating, and no column
        with pytest.raises(LookupError, match=name):
            atlas.examples(HAND, name)
    with pytest.raises(ValueError, match=r"margin of x: expected whole numbers .* got 2\.5"):
        atlas.coverage(readings(x=[2.5]), "margin")


# -- on the real readings ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["calcification", "margin", "malignancy"])
def test_examples_of_lidc_keep_to_the_rule(name: str) -> None:
    table = lidc.readings()
    nodules = lidc.nodules()
    said = nodules[f"{name}_readings"]
    four = said[nodules["n_readers"] == 4]
    found = atlas.examples(table, name)
    for row in found.itertuples():
        # in the order of the crops' masks
        assert row.readings == tuple(said[row.lesion_id])
        votes = four.map(lambda values, step=row.step: sum(v == step for v in values))
        assert row.n_readers == 4 or votes.max() == 0
        if row.kind == "agree" and row.n_readers == 4:
            assert row.n_step == votes.max()
    given = atlas.coverage(table, name)
    assert set(found["step"]) == set(given.index[given["n_readings"] > 0])
    assert given["n_readings"].sum() == table[name].count()
    assert not found.duplicated(["step", "lesion_id"]).any()


# -- drawing and trimming ----------------------------------------------------------------


def test_a_draw_takes_whole_nodules_of_four_readers() -> None:
    given = readings(a=[1, 2, 3, 4], b=[1, 2, 3, np.nan], c=[1, 2], d=[5] * 4, e=[5] * 5)
    given = given.assign(**dict.fromkeys(RATING_NAMES, given["margin"]))
    assert set(atlas.draw(given, 2)) == {"a", "d"}
    orders = {tuple(atlas.draw(given, 2, seed=s)) for s in range(20)}
    assert len(orders) == 2
    assert atlas.draw(given.sample(frac=1, random_state=0), 2) == atlas.draw(given, 2)
    assert atlas.draw(given, 1, lesion_ids=["d", "b"]) == ["d"]
    for n in (0, 3):
        with pytest.raises(ValueError, match=f"n={n}: expected 1 to 2"):
            atlas.draw(given, n)


def crop(masks: np.ndarray) -> Crop:
    shape = masks.shape[1:]
    hu = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    at = np.arange(shape[0]) + 10
    return Crop("x", hu, masks, (2.0, 0.5, 0.5), at, (100, 200), 0 * at, "phantom")


def test_a_trimmed_crop_lies_where_it_lay() -> None:
    masks = np.zeros((2, 7, 40, 50), np.bool_)
    masks[0, 3, 20:22, 30:33] = True
    masks[1, 4, 21:23, 30] = True
    whole = crop(masks)
    cut = atlas.trimmed(whole)  # 6 mm are 12 voxels
    assert cut.hu.shape == (4, 3 + 24, 3 + 24)
    assert (cut.slice_index.tolist(), cut.corner) == ([12, 13, 14, 15], (108, 218))
    assert np.array_equal(cut.hu, whole.hu[2:6, 8:35, 18:45])
    assert cut.masks.sum() == masks.sum()
    masks[0, 0, 0, 0] = masks[1, 6, 39, 49] = True
    assert atlas.trimmed(crop(masks)).hu.shape == (7, 40, 50), "as far as the crop goes"
    nothing = crop(np.zeros_like(masks))
    assert atlas.trimmed(nothing) is nothing


# -- the picture of real nodules that the book keeps -----------------------------------

KEPT = Path(__file__).parents[1] / "book" / "results" / "atlas"


def test_the_kept_nodules_were_rated_as_the_picture_says() -> None:
    kept = json.loads((KEPT / "real.json").read_text(encoding="utf-8"))["results"]
    assert len(kept) == 12
    for row in kept:
        said = lidc.nodules().loc[row["lesion_id"], f"{row['attribute']}_readings"]
        assert (len(said), said.count(row["step"])) == (row["n_readers"], row["n_step"])
    assert (KEPT / "real.png").stat().st_size < 150_000


def test_the_kept_picture_can_be_drawn_again(real_slices: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "book" / "atlas_picture.py"
    runpy.run_path(str(script))["draw"](tmp_path, Slices(real_slices))
    drawn, stored = (json.loads((p / "real.json").read_text("utf-8")) for p in (tmp_path, KEPT))
    assert drawn["results"] == stored["results"]
    assert drawn["data"] == stored["data"]
    pixels = [np.asarray(Image.open(p / "real.png").convert("L"), float) for p in (tmp_path, KEPT)]
    # fonts are drawn a little differently by another version
    assert np.abs(pixels[0] - pixels[1]).mean() < 1
