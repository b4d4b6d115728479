"""A joint distribution of Li 2021's nine categories, made from what the paper prints.

The paper prints how often each category occurs (Table 2), and these counts are met **exactly**. It
says in words how they go together (section 4.2): `SHARES` by lesion type and log odds ratios
(`LIFT`) are ours, and chosen so that these sentences are true. "For cavity and pleural effusion,
they almost have no other attributes" is read as air containing space, the lesion type. Lobes are
drawn independently of all else (4.1.2); code 0, several lobes, goes to large lesions. Not honoured:
that mass and nodule are "roughly similar" but for size (4.1.1), and where cavities lie (4.1.7),
which section 4.2 and 4.1.2 contradict.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy.special import expit

from lesionlab import published
from lesionlab.attributes import LI_CATEGORIES, category

Codes = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

MASS, NODULE, GLASS, AIR, CONSOLIDATION, EFFUSION = category("lesion_type").codes

# How many of the printed 2,014 lesions have it, by lesion type in the order of the codes.
SHARES = {
    "unclear": (628, 218, 136, 0, 145, 0),
    "lobulated": (655, 256, 44, 0, 44, 0),
    "spiculated": (553, 197, 26, 0, 40, 0),
    "long": (214, 62, 10, 0, 21, 0),  # of the spiculated
    "indented": (385, 262, 73, 2, 70, 0),
    "convergent": (160, 262, 64, 2, 65, 0),
    "calcified": (18, 91, 0, 0, 3, 0),
    "total": (4, 45, 0, 0, 1, 0),  # of the calcified
    "cavity": (60, 25, 0, 0, 5, 0),
    "several": (240, 20, 26, 28, 96, 26),  # lobes
}

# Log odds ratios within a lesion type, of an attribute given those drawn before it.
LIFT = {
    "lobulated": {"unclear": 1.2},
    "spiculated": {"unclear": 1.2, "lobulated": 1.0},
    "indented": {"unclear": 0.9, "lobulated": 0.9, "spiculated": 0.4},
    "convergent": {"unclear": 1.1, "lobulated": 1.2, "spiculated": 1.2, "indented": 0.6},
    "cavity": {"unclear": 0.8, "lobulated": 1.0},
}


def printed_counts() -> dict[str, dict[int, int]]:
    """The counts of Table 2 by attribute and code.

    Lesions without vessel convergence are not printed, nor are those in several lobes (code 0):
    both are what is left of the 2,014.
    """
    total = int(published.fact("li2021", "n_lesions_experiments"))
    printed = published.table("li2021", 2).set_index(["attribute", "category"])["lesions"]
    counts = {}
    for attribute in LI_CATEGORIES:
        known = printed[attribute.name][list(attribute.words.values())]
        rest = total - int(known.sum())
        here = dict(zip(attribute.words, known.fillna(rest).astype(int), strict=True))
        counts[attribute.name] = {0: rest} | here if 0 in attribute.unknown else here
    return counts


def apportion(shares: npt.ArrayLike, n: int) -> Codes:
    """Whole numbers in proportion to `shares` that sum to `n`, by largest remainders."""
    quota = np.asarray(shares, float)
    quota = quota * (n / quota.sum())
    whole: Codes = np.floor(quota + 1e-9).astype(np.int64)
    order = np.argsort(-np.round(quota - whole, 9), kind="stable")
    whole[order[: n - int(whole.sum())]] += 1
    return whole


def draw_codes(rng: Generator, n: int) -> dict[str, Codes]:
    """(n,) codes by name of the attribute; each has the printed shares of `n` lesions, rounded.

    Attributes are drawn one after the other. A lesion's chance of having one depends on its type
    (`SHARES`) and on those drawn before (`LIFT`); then a systematic sample with these unequal
    chances (Madow, Ann Math Stat 20 (1949) 333–354) takes exactly as many as are wanted.
    """
    printed = printed_counts()
    wanted = {
        name: dict(zip(counts, apportion(list(counts.values()), n).tolist(), strict=True))
        for name, counts in printed.items()
    }
    types = np.repeat(list(wanted["lesion_type"]), list(wanted["lesion_type"].values()))
    of_type = np.array(list(printed["lesion_type"].values()))
    strands, calcium = wanted["spiculation_length"], wanted["calcification_extent"]
    lobes = wanted["lesion_location"]
    counts = {
        "unclear": wanted["margin_clarity"][2],
        "lobulated": wanted["lobulation_presence"][2],
        "spiculated": strands[2] + strands[3],
        "long": strands[2],
        "indented": wanted["pleural_indentation"][2],
        "convergent": wanted["vessel_convergence"][2],
        "calcified": calcium[2] + calcium[3],
        "total": calcium[3],
        "cavity": wanted["cavity"][2],
        "several": lobes[0],
    }
    has: dict[str, Bools] = {}
    for name, count in counts.items():
        whole = {"long": "spiculated", "total": "calcified"}.get(name)
        among, base = (has[whole], SHARES[whole]) if whole else (np.ones(n, np.bool_), of_type)
        share = (np.array(SHARES[name]) / np.maximum(base, 1))[types - 1]
        lift: Floats = np.zeros(n)
        for given, log_odds in LIFT.get(name, {}).items():
            lift += log_odds * has[given]
        has[name] = _sample(rng, _chances(share, lift, types, among, count), types, count)
    location = np.zeros(n, np.int64)
    left = ~has["several"]
    for code in category("lesion_location").codes:
        here = _sample(rng, left / max(left.sum(), 1) * lobes[code], types, lobes[code])
        location[here] = code
        left &= ~here
    return {
        "lesion_type": types.astype(np.int64),
        "lesion_location": location,
        "margin_clarity": 1 + has["unclear"],
        "calcification_extent": 1 + has["calcified"] + has["total"],
        "lobulation_presence": 1 + has["lobulated"],
        "spiculation_length": 1 + 2 * has["spiculated"] - has["long"],
        "cavity": 1 + has["cavity"],
        "vessel_convergence": 1 + has["convergent"],
        "pleural_indentation": 1 + has["indented"],
    }


def _chances(share: Floats, lift: Floats, types: Codes, among: Bools, count: int) -> Floats:
    """(n,) chance of each lesion: the share of its type on average, `count` in all."""
    able = among & (share > 0)
    if count > able.sum():  # rounding of few lesions leaves too few: any will do
        able = among
    logit = np.zeros(len(share))
    for code in np.unique(types[able]):
        here = able & (types == code)
        middle = float(np.clip(share[here][0], 1e-3, 1 - 1e-3))
        logit[here] = lift[here] + _shift(lift[here], middle * here.sum())
    chance = np.zeros(len(share))
    chance[able] = expit(logit[able] + _shift(logit[able], count))
    return chance


def _shift(logit: Floats, target: float) -> float:
    """What to add to the log odds so that the chances sum to `target`, by bisection."""
    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        if expit(logit + middle).sum() < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _sample(rng: Generator, chance: Floats, types: Codes, count: int) -> Bools:
    """Exactly `count` lesions with unequal chances: every 1/count-th of their running sum.

    Lesions stand in blocks by type, so that each type gets its share to within one, and in random
    order within.
    """
    taken = np.zeros(len(chance), np.bool_)
    if count == 0:
        return taken
    order = rng.permutation(len(chance))
    order = order[np.argsort(types[order], kind="stable")]
    order = order[chance[order] > 0]
    running = np.cumsum(np.minimum(chance[order], 1 - 1e-12))
    running *= count / running[-1]
    running[-1] = count  # not a rounding error less
    passed = np.floor(running + rng.random())
    taken[order] = np.diff(passed, prepend=0) > 0
    return taken
