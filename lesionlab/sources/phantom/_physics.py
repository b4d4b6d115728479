"""Physics of a rendered CT, whatever it shows: sampling, blur, noise, and random textures.

Nothing here uses a matrix product, so that the bytes do not depend on the threads of a BLAS.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
from numpy.random import Generator
from scipy import ndimage

FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[np.floating[Any]]  # in single or double precision
Window = tuple[slice, slice, slice]
"""Slices `(z, y, x)` of a volume."""

HU_RANGE = (-1024, 3071)  # what twelve bits of CT hold

# Full width at half maximum of a Gaussian over its standard deviation
FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))

FINE_MM = 1.1  # largest distance between the planes on which the object is sampled, mm


def generator(*keys: object) -> Generator:
    """A generator that depends on the keys alone, not on order, process or platform hash."""
    digest = hashlib.sha256("\x1f".join(map(str, keys)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest, "big")))


def unit(vectors: Array) -> Array:
    """Vectors `(..., 3)` at length 1; one of no length stays as it is."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1), 1e-6)[..., None])


@dataclass
class Grid:
    """Where a crop's voxels lie in the scan, and the finer planes that its object is sampled on.

    Lengths are in mm, positions from the scan's first slice, row and column.
    """

    first: int  # index in the scan of the first slice
    n_slices: int
    corner: tuple[int, int]  # (y, x) of the first row and column in the scan
    size: int  # rows and columns
    spacing: float  # distance between slices
    thickness: float  # of a slice
    pixel: float  # distance between pixels

    def __post_init__(self) -> None:
        thickness, pixels = self.thickness, np.arange(self.size)
        self.per_slice = max(1, int(np.ceil(self.spacing / FINE_MM)))  # fine planes to a slice
        self.step = step = self.spacing / self.per_slice  # distance of the fine planes
        self.voxel = np.array([step, self.pixel, self.pixel])  # of a fine voxel
        half = int(np.ceil((thickness + step) / (2 * step)))
        centre = np.arange(-half, half + 1) * step
        low = np.maximum(centre - step / 2, -thickness / 2)
        high = np.minimum(centre + step / 2, thickness / 2)
        covered = np.maximum(high - low, 0)
        # share of a slice's thickness that each fine plane around its centre covers
        self.weights = covered / covered.sum()
        n = (self.n_slices - 1) * self.per_slice + 1 + 2 * half
        self.z_fine: Array = self.first * self.spacing + (np.arange(n) - half) * step
        self.slices = self.first + np.arange(self.n_slices, dtype=np.int64)
        self.z_slices: Array = self.slices * self.spacing
        self.y: Array = (self.corner[0] + pixels) * self.pixel
        self.x: Array = (self.corner[1] + pixels) * self.pixel
        self.axes = (self.z_fine, self.y, self.x)
        self.shape = (n, self.size, self.size)  # of fine voxels
        # (3,) centres of the first and of the last fine voxel
        self.ends = tuple(np.array([at[k] for at in self.axes]) for k in (0, -1))

    def average(self, fine: FloatArray) -> FloatArray:
        """Average fine planes over each slice's thickness: (planes, y, x) to (slices, y, x)."""
        last = (self.n_slices - 1) * self.per_slice + 1
        out = np.zeros((self.n_slices, *fine.shape[1:]), np.float32)
        for k, weight in enumerate(self.weights):
            if weight > 0:
                out += np.float32(weight) * fine[k : k + last : self.per_slice]
        return out


@dataclass(frozen=True)
class Scanner:
    """How one scan was taken: shared by all lesions of the scan."""

    fwhm: float  # full width at half maximum of the in-plane point spread, mm
    enhancement: float  # overshoot of a sharp kernel at edges, 0 for none
    sigma: float  # standard deviation of the noise, HU
    peak: float  # spatial frequency at which the noise power is highest, 1/mm
    floor: float  # share of the noise power that is white within the pass band
    streak: float  # how far the power of the noise depends on direction, 0 for not at all
    angle: float  # direction of the strongest noise, radians
    correlation: float  # of the noise of two neighbouring slices


def draw_scanner(rng: Generator, *, thickness: float, spacing: float) -> Scanner:
    """Draw the kernel and the dose of a scan.

    Two families of kernels, as in the real scans: smooth ones, and sharp ones with more noise,
    which are commonest at 1 to 1.5 mm. Noise falls with the square root of the slice thickness.
    """
    sharp = rng.random() < (0.3 if 1.0 < thickness <= 1.5 else 0.14)
    blur, overshoot = rng.random(2)
    scatter = rng.standard_normal(2)
    fwhm = 0.8 + 0.3 * blur if sharp else 1.1 + 0.5 * blur
    # standard deviation at 1.25 mm; the spread is that of dose and of the size of patients
    sigma = 74.0 * np.exp(0.34 * scatter[0]) if sharp else 25.0 * np.exp(0.4 * scatter[0])
    # slices that overlap share rays; helical interpolation couples the others a little
    overlap = max(0.0, 1.0 - spacing / thickness)
    return Scanner(
        fwhm=float(fwhm),
        enhancement=float(0.25 + 0.35 * overshoot if sharp else 0.12 * overshoot),
        sigma=float(sigma * np.clip(1.25 / thickness, 0.3, 2.0) ** 0.5),
        peak=float((0.35 if sharp else 0.17) * np.exp(0.12 * scatter[1])),
        floor=0.05,
        streak=float(min(rng.exponential(0.5), 3.0)),
        angle=float(rng.uniform(0, np.pi)),
        correlation=float(min(0.4 + 0.6 * overlap, 0.9)),
    )


def blur(slices: FloatArray, *, scanner: Scanner, pixel: float) -> FloatArray:
    """Convolve each slice with the point spread `(1 + e) G(s) - e G(2.5 s)`, s = fwhm / 2.355."""
    s, e = scanner.fwhm / FWHM / pixel, np.float32(scanner.enhancement)
    narrow, wide = (
        ndimage.gaussian_filter(slices, (0, sigma, sigma), mode="nearest", truncate=3.0)
        for sigma in (s, 2.5 * s)
    )
    return np.asarray((1 + e) * narrow - e * wide)


def noise_power(size: int, pixel: float, scanner: Scanner) -> Array:
    """(size, size // 2 + 1) noise power over the frequencies of `rfft2`, mean 1 over all of them.

    A ramp with a Gaussian apodisation whose maximum lies at the peak frequency, as filtered
    backprojection leaves it (Kijewski and Judy, Phys Med Biol 32 (1987) 565–575), plus a white
    floor that ends at three times that frequency, times `1 + streak cos^2(direction - angle)`.
    """
    fy = scipy.fft.fftfreq(size, pixel)[:, None]
    fx = scipy.fft.rfftfreq(size, pixel)[None]
    ratio = np.hypot(fy, fx) / scanner.peak
    power = ratio * np.exp((1 - ratio**2) / 2) + scanner.floor * np.exp(-((ratio / 3) ** 4))
    power = power * (1 + scanner.streak * np.cos(np.arctan2(fy, fx) - scanner.angle) ** 2)
    power[0, 0] = 0  # the mean of a slice is known well
    counted = np.full(power.shape, 2.0)  # rfft2 holds one of each pair of conjugates
    counted[:, 0] = 1
    if size % 2 == 0:
        counted[:, -1] = 1
    return np.asarray(power * (size * size / (power * counted).sum()))


def noise(rng: Generator, grid: Grid, scanner: Scanner) -> FloatArray:
    """(slices, y, x) noise in HU: `scanner.sigma`, coloured in plane, correlated along z."""
    white = rng.standard_normal((grid.n_slices, grid.size, grid.size), dtype=np.float32)
    rho = np.float32(scanner.correlation)
    fresh = np.float32(np.sqrt(1 - rho**2))
    for k in range(1, grid.n_slices):
        white[k] = rho * white[k - 1] + fresh * white[k]
    shaped = scipy.fft.rfft2(white, workers=1)
    shaped *= np.sqrt(noise_power(grid.size, grid.pixel, scanner)).astype(np.float32)
    coloured = scipy.fft.irfft2(shaped, s=(grid.size, grid.size), workers=1)
    return np.asarray(np.float32(scanner.sigma) * coloured, np.float32)


def texture(rng: Generator, shape: tuple[int, ...], scale: tuple[float, ...] | Array) -> FloatArray:
    """A smooth random field of mean 0 and standard deviation about 1.

    `scale` is the correlation length along each axis, voxels; about the radius of a blob.
    """
    scale = np.maximum(scale, 1.0)
    coarse = [int(np.ceil(n / s)) + 3 for n, s in zip(shape, scale, strict=True)]
    field: FloatArray = rng.standard_normal(coarse, dtype=np.float32)
    for axis in reversed(range(len(shape))):  # the last axis is the slowest to gather along
        at = 1.0 + np.arange(shape[axis]) / scale[axis]
        low = np.minimum(at.astype(int), coarse[axis] - 2)
        share = at - low
        # a smooth step, scaled so that the variance is the same everywhere
        step = share * share * (3 - 2 * share)
        weights = np.stack((1 - step, step)) / np.sqrt(step**2 + (1 - step) ** 2)
        before, after = weights.astype(np.float32).reshape(2, -1, *[1] * (len(shape) - axis - 1))
        field = field.take(low, axis) * before + field.take(low + 1, axis) * after
    return field


def grain(rng: Generator, shape: tuple[int, ...], blob: float, grid: Grid) -> list[FloatArray]:
    """Two textures of a lesion: blobs of radius `blob` (mm, at least 0.8), and of 1.5 mm."""
    return [texture(rng, shape, mm / grid.voxel) for mm in (max(blob, 0.8), 1.5)]
