"""`planes` and `volumes` against formulas, SciPy, torch and SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from lesionlab.crops.resampling import AIR, planes, volumes


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)


def cells(centre, side, size):
    return centre + ((np.arange(size) + 0.5) / size - 0.5) * side


def test_whole_voxel_shifts_copy_values():
    stack = noise(3, 20, 24)
    # 6 cells of one voxel each around the corner between voxels 7 and 8, 12 and 13
    values, padded, missing = volumes(
        [stack], [np.arange(3)], [[0, 1, 2]], [[7.5, 12.5]], [[6, 6]], size=6
    )
    np.testing.assert_allclose(values[0].numpy(), stack[:, 5:11, 10:16], atol=1e-3)
    assert (padded[0], missing[0]) == (0, 0)


def test_linear_ramp_is_read_at_its_position():
    # HU = 10 z + 3 y - 2 x with z in slices of the scan: every value tells its position
    index = np.array([30, 31, 33, 34, 37])  # slices missing
    z, y, x = np.meshgrid(index, np.arange(40), np.arange(50), indexing="ij")
    stack = (10 * z + 3 * y - 2 * x).astype(np.int16)
    at = np.array([[30.0, 30.25, 32.0, 35.5, 37.0]])
    centre, side = np.array([[18.3, 21.7]]), np.array([[11.2, 23.9]])
    out, padded, missing = volumes([stack], [index], at, centre, side, size=17)
    expected = (
        10 * at[0][:, None, None]
        + 3 * cells(18.3, 11.2, 17)[None, :, None]
        - 2 * cells(21.7, 23.9, 17)[None, None, :]
    )
    np.testing.assert_allclose(out[0].numpy(), expected, atol=2e-4)
    assert padded[0] == 0
    assert missing[0] == 3


@pytest.mark.parametrize(("outside", "mode"), [("edge", "nearest"), (AIR, "constant")])
def test_against_scipy(outside, mode):
    stack = noise(1, 30, 33)
    centre, side, size = np.array([[4.0, 25.1]]), np.array([[37.0, 19.3]]), 64
    out, within = planes([stack], centre, side, size=size, outside=outside)
    y, x = (cells(c, s, size) for c, s in zip(centre[0], side[0], strict=True))
    inside = np.outer((y >= -0.5) & (y <= 29.5), (x >= -0.5) & (x <= 32.5))
    grid = np.meshgrid(y, x, indexing="ij")
    clipped = [np.clip(g, 0, n - 1) for g, n in zip(grid, (30, 33), strict=True)]
    expected = map_coordinates(stack[0].astype(float), clipped, order=1)
    if mode == "constant":
        expected[~inside] = AIR
    np.testing.assert_allclose(out[0].numpy(), expected, atol=3e-4)
    assert within[0] == pytest.approx(inside.mean())
    assert 0 < within[0] < 1


@pytest.mark.parametrize("size", [64, 12])
def test_against_resizing_of_torch_and_skimage(size):
    stack = noise(2, 24, 24)
    # the window is the whole image, so nothing beyond its rim is read
    out, _ = planes([stack], [[11.5, 11.5]], [[24, 24]], size=size)
    tensor = torch.from_numpy(stack).float()[:, None]
    theirs = torch.nn.functional.interpolate(tensor, (size, size), mode="bilinear")
    np.testing.assert_allclose(out.numpy(), theirs[:, 0].numpy(), atol=3e-4)
    again = resize(stack[0].astype(float), (size, size), order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(out[0].numpy(), again, atol=3e-4)


@pytest.mark.parametrize(
    ("mode", "interpolator"), [("linear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor)]
)
def test_against_simpleitk(mode, interpolator):
    stack = noise(9, 26, 31, seed=4)
    spacing = np.array([2.5, 0.61, 0.61])
    step = np.array([1.0, 0.7, 0.7])
    centre, size = np.array([4.2, 12.1, 16.9]), 32  # 32 mm is more than the 22.5 mm of slices
    image = sitk.GetImageFromArray(stack.astype(np.float64))
    image.SetSpacing(spacing[::-1].tolist())
    first = centre * spacing - step * (size - 1) / 2
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(
            image, (size,) * 3, sitk.Transform(), interpolator, first[::-1].tolist(),
            step[::-1].tolist(), np.eye(3).ravel().tolist(), AIR,
        )
    )  # fmt: skip
    z = centre[0] + step[0] / spacing[0] * (np.arange(size) - (size - 1) / 2)
    ours, padded, _ = volumes(
        [stack], [np.arange(9)], [z], [centre[1:]], [step[1:] / spacing[1:] * size],
        size=size, mode=mode, outside=AIR,
    )  # fmt: skip
    np.testing.assert_allclose(ours[0].numpy(), theirs, atol=3e-4)
    assert padded[0] == pytest.approx((theirs == AIR).mean(), abs=1e-3)
    assert 0.2 < padded[0] < 0.9


def test_nearest_between_slices_goes_by_position_not_by_order():
    stack = np.array([[[1]], [[2]], [[3]]], np.uint8)
    index = np.array([0, 1, 5])
    z = [[-1, 0.4, 0.5, 1.9, 2.9, 3.0, 3.1, 9]]
    out, padded, _ = volumes([stack], [index], z, [[0, 0]], [[1, 1]], size=1, mode="nearest")
    assert out.flatten().tolist() == pytest.approx([1, 1, 2, 2, 2, 3, 3, 3])
    assert padded[0] == pytest.approx(2 / 8)


def test_edge_repeats_and_air_fills():
    stack = np.arange(4, dtype=np.int16).reshape(1, 1, 4) * 100
    window = ([[0.0, 1.5]], [[1.0, 8.0]])
    edge, within = planes([stack], *window, size=8)
    air, _ = planes([stack], *window, size=8, outside=AIR)
    assert edge[0, 3].tolist() == pytest.approx([0, 0, 0, 100, 200, 300, 300, 300], abs=1e-3)
    assert air[0, 3].tolist() == pytest.approx([AIR, AIR, 0, 100, 200, 300, AIR, AIR], abs=1e-3)
    assert within[0] == 0.5


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(["linear", "nearest"]))
def test_batch_equals_one_by_one(seed, mode):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    shapes = rng.integers((1, 2, 2), (9, 70, 70), (n, 3))
    stacks = [noise(*shape, seed=seed + i) for i, shape in enumerate(shapes)]
    index = [np.sort(rng.choice(30, len(stack), replace=False)) for stack in stacks]
    z = np.sort(rng.uniform(-5, 35, (n, 6)), axis=1)
    centre, side = rng.uniform(-5, 75, (n, 2)), rng.uniform(0.5, 90, (n, 2))
    options = {"size": 9, "mode": mode, "outside": float(AIR) if seed % 2 else "edge"}
    together = volumes(stacks, index, z, centre, side, **options)
    packed, within = planes(stacks, centre, side, **options)
    of_stack = packed.split([len(stack) for stack in stacks])
    for i in range(n):
        here = slice(i, i + 1)
        alone = volumes(stacks[here], index[here], z[here], centre[here], side[here], **options)
        for whole, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[here], one, rtol=1e-5, atol=1e-3)
        flat, share = planes(stacks[here], centre[here], side[here], **options)
        np.testing.assert_allclose(of_stack[i], flat, rtol=1e-5, atol=1e-3)
        assert within[i] == pytest.approx(share[0])


@pytest.mark.parametrize(
    ("centre", "side", "size", "message"),
    [
        ([[0, 0]], [[1, 0]], 4, "side above 0"),
        ([[0, np.inf]], [[1, np.nan]], 4, "expected finite"),
        ([[0, 0]], [[1, 1]], 0, "size=0"),
    ],
)
def test_refusals(centre, side, size, message):
    with pytest.raises(ValueError, match=message):
        planes([noise(1, 4, 4)], centre, side, size=size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_gpu():
    stacks = [noise(5, 30, 30, seed=i) for i in range(3)]
    where = ([np.arange(5)] * 3, [[0.5, 2, 9]] * 3, [[12.2, 13]] * 3, [[20, 44]] * 3)
    here = volumes(stacks, *where, size=32, outside=AIR)
    there = volumes(stacks, *where, size=32, outside=AIR, device="cuda")
    assert there[0].is_cuda
    np.testing.assert_allclose(there[0].cpu().numpy(), here[0].numpy(), atol=1e-3)
