from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from lesionlab.papers import fu2021


@pytest.fixture(scope="module")
def samples(some_crops):
    return fu2021.prepare(some_crops)


@pytest.mark.parametrize("box", ["consensus", "union", "outlines"])
def test_box_fills_80_percent(make_crop, box):
    crop = make_crop()
    voxels = crop.consensus() if box == "consensus" else crop.masks.any(0)
    crop = replace(crop, hu=np.where(voxels, 1000, 0).astype(np.int16))
    image = fu2021.prepare([crop], box=box).images[:, 0].amax(0).numpy()
    rows, columns = np.flatnonzero(image.max(1) > 500), np.flatnonzero(image.max(0) > 500)
    box_pixels = np.ptp(np.flatnonzero(voxels.any((0, 2)))) + 1  # y is the longer side
    window = (box_pixels + 2 * (box == "outlines")) / 0.8
    assert len(rows) == pytest.approx(64 * box_pixels / window, abs=1.5)
    assert len(columns) < len(rows)
    # and it lies in the middle
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(31.5, abs=1)
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(31.5, abs=1)


def test_against_scipy(make_crop):
    crop = make_crop()
    got = fu2021.prepare([crop], box="union")
    marked = crop.masks.any(0)
    rows, columns = (np.flatnonzero(marked.any(axis)) for axis in ((0, 2), (0, 1)))
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    at = [
        (r[0] + r[-1]) / 2 + ((np.arange(64) + 0.5) / 64 - 0.5) * side / 0.8
        for r in (rows, columns)
    ]
    grid = np.meshgrid(*at, indexing="ij")
    for image, k in zip(
        got.images[:, 0], np.flatnonzero(crop.consensus().any((1, 2))), strict=True
    ):
        expected = map_coordinates(crop.hu[k].astype(float), grid, order=1)
        np.testing.assert_allclose(image.numpy(), expected, atol=3e-4)


def test_normalisation(samples):
    normalise = fu2021.Normalisation.of(samples)
    pixels = samples.images.numpy().astype(float)
    assert normalise.mean == pytest.approx(pixels.mean())
    assert normalise.sd == pytest.approx(pixels.std())
    done = normalise(samples).images.double()
    assert float(done.mean()) == pytest.approx(0, abs=1e-5)
    assert float(done.std(correction=0)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="all pixels are 5 HU"):
        fu2021.Normalisation.of(replace(samples, images=torch.full((2, 1, 4, 4), 5.0)))


def test_volumes_hold_the_slices_in_the_middle(samples):
    padded = fu2021.volumes(samples, depth=64, value=7.0)
    assert padded.shape == (7, 1, 64, 64, 64)
    for i, length in enumerate(samples.lengths.tolist()):
        first = (64 - length) // 2
        held = padded[i, 0, first : first + length]
        assert torch.equal(held, samples.images[samples.nodule == i, 0])
        assert (padded[i, 0, :first] == 7).all()
        assert (padded[i, 0, first + length :] == 7).all()
    with pytest.raises(ValueError, match=r"depth=3: l\d has \d+ slices"):
        fu2021.volumes(samples, depth=3)


def test_augmentation_moves_all_slices_of_a_nodule_alike(samples):
    drawn = fu2021.draw(7, torch.Generator().manual_seed(5))
    moved = fu2021.apply(samples, drawn).images
    for i in range(7):
        one = samples.images[samples.nodule == i]
        if drawn.flip_x[i]:
            one = one.flip(-1)
        if drawn.flip_y[i]:
            one = one.flip(-2)
        one = torch.rot90(one, int(drawn.turns[i]), (-2, -1))
        one = one.flip(0) if drawn.reverse[i] else one
        assert torch.equal(moved[samples.nodule == i], one)


def test_slices_without_consensus_between_others_are_left_out(make_crop):
    crop = make_crop()
    used = np.flatnonzero(crop.consensus().any((1, 2)))
    masks = crop.masks.copy()
    masks[:, used[2]] = False
    gappy = fu2021.prepare([replace(crop, masks=masks)])
    whole = fu2021.prepare([crop]).images
    expected = whole[[i for i in range(len(used)) if i != 2]]
    torch.testing.assert_close(gappy.images, expected, rtol=0, atol=1e-3)  # HU
    assert gappy.missing.tolist() == [1]


def test_what_is_drawn():
    drawn = fu2021.draw(10_000, torch.Generator().manual_seed(0))
    assert not (drawn.flip_x & drawn.flip_y).any()
    shares = [drawn.flip_x, drawn.flip_y, drawn.reverse, *(drawn.turns == k for k in range(4))]
    expected = [0.25, 0.25, 0.5, 0.5, 1 / 6, 1 / 6, 1 / 6]
    assert [float(s.float().mean()) for s in shares] == pytest.approx(expected, abs=0.02)
    assert not fu2021.draw(50, torch.Generator(), p=0).turns.any()
    # the eight positions of a square: itself, two mirrors, and the other five
    square = np.arange(4).reshape(2, 2)
    moves = zip(*(part.tolist() for part in (drawn.flip_x, drawn.flip_y, drawn.turns)), strict=True)
    places = [np.rot90(square[:: -1 if y else 1, :: -1 if x else 1], -k) for x, y, k in moves]
    _, counts = np.unique(np.reshape(places, (-1, 4)), axis=0, return_counts=True)
    assert sorted(counts / 10_000) == pytest.approx([1 / 12] * 5 + [1 / 6] * 2 + [1 / 4], abs=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_gpu(samples, some_crops):
    drawn = fu2021.draw(7, torch.Generator().manual_seed(5))
    there = fu2021.apply(fu2021.prepare(some_crops, device="cuda"), drawn)
    assert there.images.is_cuda
    here = fu2021.apply(samples, drawn).images
    torch.testing.assert_close(there.images.cpu(), here, rtol=1e-5, atol=1e-3)
