"""How strong the noise is at each spatial frequency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from lesionlab.crops import Crop
from lesionlab.realism._pairs import Array, View, views

PATCH, N_BINS, HIGHEST = 16, 12, 0.7
"""Side of a patch in pixels, bins, and the frequency (1/mm) at which the last one ends."""


@dataclass(frozen=True)
class Spectrum:
    """Sums over the flat patches of a crop.

    Attributes:
        total: (bin,) sum of the power over patches and frequencies, HU² mm².
        weight: (bin,) number of frequencies in it.
        n_patches: Number of patches.
    """

    total: Array
    weight: Array
    n_patches: int


def noise_power(crops: Sequence[Crop], *, patch: int = PATCH, n_bins: int = N_BINS) -> pd.DataFrame:
    """Radial noise power spectrum of flat lung.

    Square patches of lung whose values, smoothed over two pixels, stay within 120 HU; from each a
    plane is subtracted. NPS(f) = |DFT|^2 * pixel area / number of pixels, averaged over patches,
    slices and directions (International Commission on Radiation Units, report 87, section 5).

    Args:
        crops: Crops of one tier.
        patch: Side of a patch, pixels.
        n_bins: Bins from 0 to 0.7 / mm.

    Returns:
        One row per bin: `tier`, `frequency` (1/mm, centre of the bin), `power` (HU² mm²),
        `share` (of the sum over bins, to compare the form), `n_patches`. Without a flat patch all
        values are NaN.

    Raises:
        ValueError: No crops, of several tiers, or a patch that no crop holds.
    """
    tier, seen = views(crops)
    if patch < 4 or all(min(crop.hu.shape[1:]) < patch for crop in crops):
        raise ValueError(f"patch={patch!r}: expected 4 pixels up to the size of the crops")
    return table(tier, [spectrum(view, patch, n_bins) for view in seen])


def spectrum(view: View, patch: int = PATCH, n_bins: int = N_BINS) -> Spectrum:
    """One crop's part in `noise_power`."""
    pixel = view.crop.spacing[2]
    f = np.fft.fftfreq(patch, pixel)
    which = np.digitize(np.hypot(f[:, None], f[None]), np.linspace(0, HIGHEST, n_bins + 1)) - 1
    which[0, 0] = -1  # the plane took it
    ok = (which >= 0) & (which < n_bins)
    total, n = np.zeros(n_bins), 0
    for image in view.hu:
        for tile in _flat_patches(image, patch):
            power = np.abs(np.fft.fft2(tile)) ** 2 * pixel**2 / tile.size
            total += np.bincount(which[ok], power[ok], minlength=n_bins)
            n += 1
    return Spectrum(total, n * np.bincount(which[ok], minlength=n_bins).astype(float), n)


def table(tier: str, each: Iterable[Spectrum]) -> pd.DataFrame:
    """Several crops' spectra as the table of `noise_power`."""
    parts = list(each)
    total, weight = sum(part.total for part in parts), sum(part.weight for part in parts)
    edges = np.linspace(0, HIGHEST, len(parts[0].total) + 1)
    with np.errstate(invalid="ignore"):
        power = np.divide(total, weight)
        share = power / np.nansum(power)
    return pd.DataFrame(
        {
            "tier": tier,
            "frequency": (edges[:-1] + edges[1:]) / 2,
            "power": power,
            "share": share,
            "n_patches": sum(part.n_patches for part in parts),
        }
    )


def _flat_patches(image: Array, patch: int) -> list[Array]:
    smooth = ndimage.gaussian_filter(image, 2.0)
    found = []
    rows, columns = np.mgrid[:patch, :patch] - (patch - 1) / 2
    for i in range(0, image.shape[0] - patch + 1, patch):
        for j in range(0, image.shape[1] - patch + 1, patch):
            s = smooth[i : i + patch, j : j + patch]
            if s.min() > -980 and s.max() < -650 and np.ptp(s) < 120:
                tile = image[i : i + patch, j : j + patch]
                tile = tile - tile.mean()
                for ramp in (rows, columns):
                    tile = tile - ramp * (tile * ramp).sum() / (ramp**2).sum()
                found.append(tile)
    return found
