"""Sliders for a model's scores: what the page is given, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from lesionlab import explorer


def scores(**columns: Any) -> pd.DataFrame:
    rows = {"low": 1, "high": [5, 6], "predicted": [2.0, 5.0], "readers": [3.0, math.nan]}
    return pd.DataFrame(rows | {"slope": [0.5, -1.0]} | columns, ["margin", "calcification"])


def test_a_slider_moves_the_log_odds_by_its_slope(payload: Any) -> None:
    page = explorer.what_if(scores(), [0.0, math.log(3)], title="</script>one", tier="phantom")
    assert page.probability() == pytest.approx((1 / 2 + 3 / 4) / 2)
    # two steps of margin and one of calcification cancel each other
    assert page.probability(margin=4.0, calcification=6.0) == pytest.approx(page.probability())
    assert page.probability(margin=4.0) == pytest.approx(
        (1 / (1 + math.exp(-1)) + 1 / (1 + math.exp(-1) / 3)) / 2
    )
    data = payload(page)["data"]
    assert [row["title"] for row in data["scores"]] == ["Margin", "Calcification"]
    assert [row["readers"] for row in data["scores"]] == [3.0, None]
    assert data["tier"] == "phantom: rendered voxels, not a scan"
    assert page.to_png().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("given", "odds"), [(scores(slope=math.nan), [0.0]), (scores(), []), (scores(), [math.inf])]
)
def test_what_is_no_number_is_refused(given: pd.DataFrame, odds: list[float]) -> None:
    with pytest.raises(ValueError, match="expected finite numbers, and one of log_odds or more"):
        explorer.what_if(given, odds, title="one")
