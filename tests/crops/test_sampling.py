import numpy as np
import pytest
import torch

from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples, batch, from_unit, in_chunks, locate, to_unit
from lesionlab.sources import lidc


def crop(name="a", masks=None, *, index=None, calibrated=True):
    if masks is None:
        masks = np.zeros((2, 4, 10, 12), bool)
        masks[0, 1:3, 4:7, 5:9] = True
        masks[1, 1:4, 4:8, 5:9] = True
    hu, depth = np.zeros(masks.shape[1:], np.int16), masks.shape[1]
    at = np.arange(depth) + 7 if index is None else np.array(index)
    steps = np.full(depth, 0 if calibrated else -1)
    return Crop(name, hu, masks, (2.0, 0.5, 0.5), at, (0, 0), steps, "phantom")


def test_where_the_lesion_is_by_hand():
    both = locate(crop(), level=1.0)  # slices 1 and 2, rows 4 to 6, columns 5 to 8
    assert both.low.tolist() == [1, 4, 5]
    assert both.high.tolist() == [3, 7, 9]
    assert both.slices.tolist() == [1, 2]
    assert both.area.tolist() == [0, 12, 12, 0]
    assert both.centroid.tolist() == [8.5, 5.0, 6.5]
    assert both.equivalent_diameter == pytest.approx((6 * 24 * 0.5 / np.pi) ** (1 / 3))
    assert locate(crop(), level=1, box="union").high.tolist() == [3, 8, 9]
    outlines = locate(crop(), level=1, box="outlines")
    assert (outlines.low.tolist(), outlines.high.tolist()) == ([1, 3, 4], [3, 9, 10])


@pytest.mark.parametrize("level", [0.25, 0.5, 0.51, 2 / 3, 0.75, 1.0])
@pytest.mark.parametrize("readers", [1, 2, 3, 4, 5, 8])
def test_the_same_voxels_as_the_crops_own_consensus(level, readers):
    masks = np.random.default_rng(readers).random((readers, 3, 9, 9)) < 0.7
    masks[:, 1, 4, 4] = True
    made = crop(masks=masks)
    expected = made.consensus(level)
    lesion = locate(made, level=level)
    np.testing.assert_array_equal(lesion.inside, expected)
    assert lesion.area.tolist() == expected.sum((1, 2)).tolist()
    at = np.argwhere(expected)
    assert lesion.low.tolist() == at.min(0).tolist()
    assert lesion.high.tolist() == (at.max(0) + 1).tolist()
    assert (lesion.centroid - (7, 0, 0)).tolist() == pytest.approx(at.mean(0).tolist())


def test_a_missing_slice_moves_the_centroid_by_position():
    masks = np.zeros((1, 3, 5, 5), bool)
    masks[:, :, 2, 2] = True
    assert locate(crop(masks=masks, index=[3, 4, 11])).centroid.tolist() == [6, 2, 2]


def test_boxes_around_outlines_are_those_of_the_vertices():
    """The box printed by Fu 2021 is that of the vertices, which a crop does not carry."""
    table = lidc.nodules()
    chosen = table.index[::60]
    sides = {"outlines": [], "consensus": []}
    for name in chosen:
        mask = lidc.masks(name, pad=2)
        made = crop(name, mask.readers)
        for box, found in sides.items():
            lesion = locate(made, box=box)
            found.append((lesion.high - lesion.low)[1:].max())
    vertices = table.loc[chosen, ["box_y", "box_x"]].max(axis=1).to_numpy()
    near = np.abs(np.array(sides["outlines"]) - vertices) <= 1
    assert near.mean() > 0.9
    assert (np.abs(np.array(sides["consensus"]) - vertices) <= 1).mean() < 0.2


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (crop(), {"level": 0}, "level=0"),
        (crop(), {"box": "sphere"}, "box='sphere'"),
        (crop("b", np.zeros((2, 3, 5, 5), bool)), {}, "masks of b: no voxel with 50% of 2 readers"),
        (crop("d", index=[1, 3, 2, 4]), {}, "slice_index of d: expected ascending"),
    ],
)
def test_refusals(made, options, message):
    with pytest.raises(ValueError, match=message):
        locate(made, **options)


def packed(lengths=(2, 3, 1), *, masks=True):
    n = sum(lengths)
    images = torch.arange(n * 4.0).reshape(n, 1, 2, 2)
    made = [locate(crop(f"l{i}", calibrated=i != 1)) for i in range(len(lengths))]
    return batch(
        made,
        images,
        padded=np.linspace(0, 0.5, len(lengths)),
        missing=np.arange(len(lengths)),
        lengths=lengths,
        masks=images if masks else None,
    )


def equal(one, other):
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_selecting_a_mini_batch_and_its_report():
    samples = packed()
    assert list(samples.report().values()) == [3, 6, 2, 0.5, 2, 1]
    assert samples.lengths.tolist() == [2, 3, 1]
    chosen = samples.select([2, 0, 2])
    assert chosen.lesion_ids == ("l2", "l0", "l2")
    assert chosen.nodule.tolist() == [0, 1, 1, 2]
    assert torch.equal(chosen.images, samples.images[[5, 0, 1, 5]])
    assert torch.equal(chosen.masks, chosen.images)
    assert chosen.padded.tolist() == [0.5, 0, 0.5]
    assert chosen.hu_error.tolist() == [0, 0, 0]
    assert len(samples.select([]).images) == 0
    for wrong in ([3], [-1], 1):
        with pytest.raises(IndexError, match=r"positions from 0 to 2"):
            samples.select(wrong)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_splitting_gives_the_mini_batches_in_order(size):
    samples = packed()
    parts = samples.split(size)
    wanted = [range(low, min(low + size, 3)) for low in range(0, 3, size)]
    for part, lesions in zip(parts, wanted, strict=True):
        assert equal(part, samples.select(lesions))
        assert part.images.untyped_storage().data_ptr() == samples.images.data_ptr()
    assert packed(masks=False).split(size)[0].masks is None
    with pytest.raises(ValueError, match="size=0: expected 1 lesion or more"):
        samples.split(0)


def test_joining_is_the_inverse_of_selecting():
    samples = packed()
    joined = Samples.join([samples.select([i]) for i in range(3)])
    assert equal(joined, samples)
    assert Samples.join([packed(masks=False), packed(masks=False)]).masks is None


def test_chunks_do_not_show():
    seen = []

    def prepare(lesions):
        seen.append(len(lesions))
        n = len(lesions)
        return batch(lesions, torch.zeros(n, 1), padded=np.zeros(n), missing=np.zeros(n, int))

    samples = in_chunks((crop(str(i)) for i in range(7)), prepare, level=0.5, chunk=3)
    assert seen == [3, 3, 1]
    assert samples.lesion_ids == tuple("0123456")
    assert samples.nodule.tolist() == list(range(7))
    with pytest.raises(ValueError, match="crops: expected at least one"):
        in_chunks([], prepare, level=0.5)


def test_window_by_hand():
    hu = torch.tensor([-2000.0, -1024, -312, 400, 3000])
    unit = to_unit(hu, (-1024, 400))
    assert unit.tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    torch.testing.assert_close(from_unit(unit, (-1024, 400)), hu.clamp(-1024, 400))
    with pytest.raises(ValueError, match=r"window=\(400, 400\)"):
        to_unit(hu, (400, 400))
