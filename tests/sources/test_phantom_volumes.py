"""Phantoms beside real cubes in exact HU, in three dimensions, around the same lesions.

The renderer was tuned on patients of even number; these are some of odd number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import ndimage

from lesionlab.sources import lidc
from lesionlab.sources.phantom import phantom

N_LESIONS = 150


def measured(
    hu: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_], spacing: tuple[float, float, float]
) -> dict[str, float]:
    """Lung around a lesion: its HU, how uneven it is, its grain along z; and what touches it."""
    away = ndimage.distance_transform_edt(~mask, sampling=spacing)
    smooth = ndimage.gaussian_filter(hu, (0, 2, 2))
    lung = ndimage.binary_erosion((smooth < -600) & (smooth > -990), np.ones((1, 5, 5)))
    around = lung & (away > 2)
    level = float(np.median(hu[around])) if around.sum() > 100 else np.nan
    # slow variation: means over some 4 mm of lung without vessels
    plain, wide = around & (hu < level + 150), (0, 4 / spacing[1], 4 / spacing[2])
    share = ndimage.gaussian_filter(plain.astype(float), wide)
    means = ndimage.gaussian_filter(np.where(plain, hu, 0), wide)[around & (share > 0.5)]
    means = means / share[around & (share > 0.5)]
    both = around[1:] & around[:-1]
    above, below = (
        np.clip(g, -150, 150) for g in ((hu - smooth)[1:][both], (hu - smooth)[:-1][both])
    )
    # touched: soft tissue of more than 60 mm² in the slice, within three pixels of the outline
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = True
    soft = (hu > -300) & ~ndimage.binary_dilation(mask, in_plane)
    parts, _ = ndimage.label(soft, in_plane)
    rim = ndimage.binary_dilation(mask, in_plane, iterations=3) & soft
    area = np.bincount(parts.ravel()) * spacing[1] * spacing[2]
    return {
        "lung": level,
        "slow": float(np.std(means)) if len(means) > 100 else np.nan,
        "along_z": float(np.corrcoef(above, below)[0, 1]) if both.sum() > 200 else np.nan,
        "touched": float((area[np.unique(parts[rim])] > 60).any()),
    }


@pytest.mark.slow
def test_lung_around_phantoms_is_that_around_real_lesions(lidc_sources, real_volumes, tmp_path):
    link, nodules, rows = lidc_sources.link(), lidc.nodules(), []
    odd = link[link["patient"].str[-4:].astype(int) % 2 == 1].sample(frac=1, random_state=0)
    for folder, real, (first, y, x) in lidc_sources.volumes(real_volumes, odd, tmp_path):
        made = phantom(folder.lesion_id)
        corner = np.subtract((first, y, x), made.origin)
        box = tuple(slice(c, c + n) for c, n in zip(corner, real.shape, strict=True))
        if min(corner) < 0 or made.hu[box].shape != real.shape:
            continue  # it reaches beyond the phantom
        mask = made.consensus()[box]
        here: dict[str, float] = {"diameter": nodules.loc[folder.lesion_id, "diameter"]}
        for name, hu in (("real", real), ("made", made.hu[box])):
            found = measured(hu.astype(float), mask, made.spacing)
            here |= {f"{what}_{name}": value for what, value in found.items()}
        rows.append(here)
        if len(rows) == N_LESIONS:
            break
    table = pd.DataFrame(rows)
    mean = table.mean()
    assert mean["lung_made"] == pytest.approx(mean["lung_real"], abs=12)
    assert mean["slow_made"] == pytest.approx(mean["slow_real"], rel=0.15)
    assert mean["along_z_made"] == pytest.approx(mean["along_z_real"], abs=0.05)
    for some in (table["diameter"] < 12, table["diameter"] >= 12):
        touched = table.loc[some, ["touched_made", "touched_real"]].mean()
        assert touched["touched_made"] == pytest.approx(touched["touched_real"], abs=0.15)
