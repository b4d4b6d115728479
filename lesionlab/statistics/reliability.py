"""How much of the readers' agreement is more than chance: kappa, Krippendorff's alpha, ICC.

A mean difference between readers is small when everybody says the same of every nodule,
as for internal structure, although the readings then tell no nodule from another. The
three measures here compare the disagreement within nodules with the one between them; they are
NaN where all ratings are the same. Arguments, counts and errors are those of `agreement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from lesionlab.attributes import LIDC_RATINGS, RATING_NAMES
from lesionlab.statistics.agreement import pairs_of, per_attribute


def weighted_kappa(
    readings: pd.DataFrame, attributes: Sequence[str] = RATING_NAMES
) -> pd.DataFrame:
    """Cohen's kappa over all reader pairs, with linear weights; for ratings in whole numbers.

    Kappa is 1 - (observed disagreement) / (disagreement expected from the margins), where a
    disagreement of d steps counts d. Since nobody knows who is reader 1, each pair enters as
    (a, b) and as (b, a), which makes both margins the same. Columns value, n_pairs, n_nodules,
    n_missing.
    """

    def row(attribute: str, rated: pd.DataFrame) -> dict[str, Any]:
        if len(between := rated.loc[rated["rating"] % 1 != 0, "rating"]):
            raise ValueError(f"kappa of {attribute!r} needs whole numbers, got {between.iloc[0]}")
        pairs = pairs_of(rated).astype({"first": int, "second": int})
        one = np.concatenate([pairs["first"], pairs["second"]])
        other = np.concatenate([pairs["second"], pairs["first"]])
        value = float("nan")
        if rated["rating"].nunique() > 1:
            # scikit-learn counts steps by position among the labels: if nobody said 3 and it were
            # left out, 2 and 4 would be one step apart
            steps = np.arange(one.min(), one.max() + 1)
            value = float(cohen_kappa_score(one, other, labels=steps, weights="linear"))
        return {"value": value, "n_pairs": len(pairs)}

    return per_attribute(readings, attributes, row)


def krippendorff_alpha(
    readings: pd.DataFrame, attributes: Sequence[str] = RATING_NAMES
) -> pd.DataFrame:
    r"""Krippendorff's alpha, which takes any number of readers per nodule.

    Alpha is 1 - D_o / D_e: the disagreement found within nodules over the one expected if all
    ratings were dealt out at random. With n_uc the number of readers who gave nodule u the
    value c, m_u its readers, n_c and n the sums over nodules, and d2 the squared distance of
    two values (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"):

        D_o = sum_u sum_ck n_uc n_uk d2_ck / (m_u - 1),   D_e = sum_ck n_c n_k d2_ck / (n - 1)

    d2 is 1 for unequal values of a nominal attribute (internal structure, calcification), and
    (n_c / 2 + [counts of the values between] + n_k / 2)^2 for an ordinal one, as all others are.

    Columns value, level (`nominal` or `ordinal`), n_readings, n_nodules, n_missing.
    """
    nominal = {a.name for a in LIDC_RATINGS if a.kind == "nominal"}

    def row(attribute: str, rated: pd.DataFrame) -> dict[str, Any]:
        level = "nominal" if attribute in nominal else "ordinal"
        counts = pd.crosstab(rated["lesion_id"], rated["rating"])  # n_uc, of values that occur
        domain, n_uc, n_c = counts.columns.to_numpy(), counts.to_numpy(), counts.sum().to_numpy()
        value = float("nan")
        if len(domain) > 1:
            d2 = 1 - np.eye(len(domain))
            if level == "ordinal":
                # between two values lie half of the ratings at each end and all in the middle,
                # which is the distance of their mid-ranks
                place = np.cumsum(n_c) - n_c / 2
                d2 = (place[:, None] - place) ** 2
            within = np.einsum("uc,ck,uk->u", n_uc, d2, n_uc)
            observed = (within / (n_uc.sum(axis=1) - 1)).sum()
            expected = n_c @ d2 @ n_c / (n_c.sum() - 1)
            value = float(1 - observed / expected)
        return {"value": value, "level": level, "n_readings": len(rated)}

    return per_attribute(readings, attributes, row)


def icc(readings: pd.DataFrame, attributes: Sequence[str] = RATING_NAMES) -> pd.DataFrame:
    """Intraclass correlation ICC(1,1): the share of variance that is between nodules.

    One-way random effects, the only model for readers without identity (Shrout and Fleiss
    1979, case 1). With n nodules of k_i readers, N readings, and the mean squares between and
    within nodules of a one-way analysis of variance:

        ICC = (MSB - MSW) / (MSB + (k0 - 1) MSW),   k0 = (N - sum k_i^2 / N) / (n - 1)

    The 95 % interval divides F = MSB / MSW by quantiles of its distribution with n - 1 and N - n
    degrees of freedom: low = (F / F_upper - 1) / (F / F_upper + k0 - 1), and high likewise. It
    is exact for normal ratings and equal k_i, and an approximation for unequal ones.

    Ratings are treated as numbers, so that it means little for nominal ones. Columns value, low,
    high, k0, n_readings, n_nodules, n_missing; NaN with fewer than two nodules.
    """

    def row(_: str, rated: pd.DataFrame) -> dict[str, Any]:
        of_nodule = rated.groupby("lesion_id")["rating"]
        k, means = of_nodule.count(), of_nodule.mean()
        n, total = len(k), len(rated)
        value = low = high = k0 = float("nan")
        if n >= 2 and rated["rating"].nunique() > 1:
            between = (k * (means - rated["rating"].mean()) ** 2).sum() / (n - 1)
            within = ((rated["rating"] - of_nodule.transform("mean")) ** 2).sum() / (total - n)
            k0 = float((total - (k**2).sum() / total) / (n - 1))
            f = between / within if within > 0 else np.inf
            f_low, f_high = f / stats.f.isf([0.025, 0.975], n - 1, total - n)
            value, low, high = (
                1.0 if np.isinf(x) else float((x - 1) / (x + k0 - 1)) for x in (f, f_low, f_high)
            )
        return {"value": value, "low": low, "high": high, "k0": k0, "n_readings": total}

    return per_attribute(readings, attributes, row)
