"""The parts that a phantom is made of, each against a value worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lesionlab.sources.phantom import _average_distance, _lung
from lesionlab.sources.phantom import _physics as physics
from lesionlab.sources.phantom._lung import NO_TUBES, draw_lung, fill, grow_tree, inflated
from lesionlab.sources.phantom._physics import blur, generator, texture
from lesionlab.sources.phantom._thorax import MEAN_SCALE, draw_chest, make_room


def grid(*, n_slices=5, size=64, spacing=2.5, thickness=2.5, pixel=0.7, first=10, corner=(0, 0)):
    return physics.Grid(first, n_slices, corner, size, spacing, thickness, pixel)


def scanner(**changes):
    values = {"fwhm": 1.4, "enhancement": 0.0, "sigma": 30.0, "peak": 0.2, "floor": 0.05}
    return physics.Scanner(**values | {"streak": 0.0, "angle": 0.0, "correlation": 0.0} | changes)


@pytest.mark.parametrize(
    ("spacing", "thickness", "planes_above", "expected"),
    [
        (2.5, 2.5, 0, [0, 0, 2 / 3, 1, 1]),  # 3 planes a slice: 2 of 3 lie in the object
        (2.5, 2.5, 1, [0, 0, 1 / 3, 1, 1]),
        (2.5, 5.0, 0, [0, 1 / 12, 7 / 12, 1, 1]),  # each slice reaches into its neighbours
        (1.0, 1.0, 0, [0, 0, 1, 1, 1]),
    ],
)
def test_a_plane_across_a_slice_fills_its_share(spacing, thickness, planes_above, expected):
    g = grid(spacing=spacing, thickness=thickness)
    # everything above a face between two fine planes, just below or above the middle slice's centre
    face = (g.first + 2) * spacing + (planes_above - 0.5) * g.step
    fine = np.zeros(g.shape, np.float32)
    fine[g.z_fine > face] = 1
    low = g.z_slices - thickness / 2
    by_hand = np.clip((low + thickness - face) / thickness, 0, 1)
    assert by_hand == pytest.approx(expected, abs=1e-9)
    assert g.average(fine)[:, 0, 0] == pytest.approx(expected, abs=1e-6)


def test_blur_keeps_the_mean_and_is_as_wide_as_asked():
    image = np.zeros((1, 129, 129), np.float32)
    image[0, 64, 64] = 1
    sharp = blur(image, scanner=scanner(enhancement=0.4), pixel=0.7)
    assert sharp.sum() == pytest.approx(1, rel=1e-4)
    assert blur(image + 850, scanner=scanner(), pixel=0.7)[0, 0] == pytest.approx(850, rel=1e-5)
    out = blur(image, scanner=scanner(fwhm=4.0), pixel=0.5)[0]
    assert out.sum() == pytest.approx(1, rel=1e-4)
    across = (np.arange(129) - 64) * 0.5
    sd = np.sqrt((out.sum(axis=0) * across**2).sum() / out.sum())
    assert sd * physics.FWHM == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_noise_has_the_deviation_and_correlation_asked_for_and_no_mean(correlation):
    asked = scanner(sigma=30.0, correlation=correlation)
    drawn = physics.noise(generator("n"), grid(n_slices=60, size=128), asked)
    assert drawn.std() == pytest.approx(30, rel=0.03)
    assert drawn.mean(axis=(1, 2)) == pytest.approx(0, abs=1e-3)
    for k in (1, 2):  # slices apart
        beside = np.corrcoef(drawn[k:].ravel(), drawn[:-k].ravel())[0, 1]
        assert beside == pytest.approx(correlation**k, abs=0.04)


def test_noise_power_peaks_where_asked_and_keeps_the_variance():
    power = physics.noise_power(128, 0.5, scanner(peak=0.3, floor=0.0))
    fy = np.fft.fftfreq(128, 0.5)[:, None]
    f = np.hypot(fy, np.fft.rfftfreq(128, 0.5)[None])
    assert f.ravel()[power.argmax()] == pytest.approx(0.3, abs=0.01)
    assert power[0, 0] == 0
    # f exp(-f²/2p²), the ramp with its apodisation, up to one factor
    model = f * np.exp(-((f / 0.3) ** 2) / 2)
    assert power == pytest.approx(model * power.max() / model.max(), abs=2e-3 * power.max())
    # rfft2 leaves out one of each pair of conjugates
    whole = 2 * power.sum() - power[:, 0].sum() - power[:, -1].sum()
    assert whole / 128**2 == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.7, 40.0])
def test_texture_has_unit_variance_at_every_scale(scale):
    fields = [texture(generator(k), (24, 24, 24), (scale,) * 3) for k in range(60)]
    values = np.array(fields)
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(0, abs=0.15)
    assert values.std() == pytest.approx(1, abs=0.12)


def test_texture_is_as_smooth_as_asked():
    def step(scale):
        field = texture(generator("t"), (40, 40, 40), (scale,) * 3)
        return float(np.abs(np.diff(field, axis=2)).mean())

    assert step(1.0) > 2 * step(4.0) > 4 * step(16.0)


def tube(start, end, radius):
    return np.array([[[*start, radius], [*end, radius]]], float)


@pytest.mark.parametrize("radius", [0.15, 0.5, 1.4, 4.0])
@pytest.mark.parametrize("end", [(36, 22, 36), (28, 32, 30), (24, 34, 12)])
def test_a_tube_fills_its_volume(radius, end):
    g = grid(n_slices=31, spacing=1.0, thickness=1.0, first=15)
    start = (26.0, 18.0, 16.0)
    share = fill(tube(start, end, radius), g)
    # samples fall unevenly, and a voxel that got too many is cut at 1: some volume is lost
    volume = np.pi * radius**2 * np.linalg.norm(np.subtract(end, start))
    assert 0.9 * volume < share.sum() * g.voxel.prod() < 1.02 * volume
    assert 0 <= share.min() <= share.max() <= 1


def test_a_thick_tube_is_full_inside_and_nothing_lies_outside_it():
    g = grid(n_slices=15, size=64, spacing=1.0, thickness=1.0, first=20)
    share = fill(tube((27, 22, 5), (27, 22, 40), 5.0), g)
    z, y, x = np.meshgrid(g.z_fine, g.y, g.x, indexing="ij")
    away = np.hypot(z - 27, y - 22)
    along = (x > 6) & (x < 39)
    assert share[(away < 3.8) & along].mean() == pytest.approx(0.97, abs=0.04)
    assert share[(away < 3.8) & along].min() > 0.5
    assert not share[away > 6].any()
    for nothing in (NO_TUBES, tube((0, -500, 0), (0, -480, 10), 2.0)):
        assert not fill(nothing, g).any()


def test_a_tree_hangs_together_and_its_radii_follow_murray():
    points = generator("p").uniform(0, 60, (200, 3))
    root = np.array([30.0, 30.0, -20.0])
    tree = grow_tree(generator("t"), points, root, tip=0.3, largest=50.0)
    assert len(tree) == 400
    start, end = tree[:, 0, :3], tree[:, 1, :3]
    assert {tuple(p) for p in start} <= {tuple(p) for p in end} | {tuple(root)}
    # at every branch the cube of what comes in is what goes out plus the branch's own twig
    into = {tuple(at): radius for *at, radius in tree[200:, 1]}
    out = dict.fromkeys([*into, tuple(root)], 0.0)
    for k in range(200):
        out[tuple(start[k])] += into[tuple(end[200 + k])] ** 3
    assert all(radius**3 > out[point] for point, radius in into.items())
    trunk = out[tuple(root)]
    assert trunk == pytest.approx(200 * 0.3**3 * np.exp(0.125), rel=0.25)  # mean of lognormals


def test_a_small_tree_joins_each_point_where_the_path_is_cheapest():
    points = generator("p").uniform(0, 30, (_lung.NEIGHBOURS, 3))
    root = np.array([0.0, 0.0, -10.0])
    tree = grow_tree(generator("t"), points, root, tip=0.3)
    order = np.argsort(((points - root) ** 2).sum(1))
    points = points[order]
    for child in range(1, len(points)):
        outwards = (points[child] - root) / np.linalg.norm(points[child] - root)
        step = points[child] - points[:child]
        cost = 2.4 * np.linalg.norm(step, axis=1) - 1.4 * (step @ outwards)
        assert tree[child, 0, :3] == pytest.approx(points[cost.argmin()])
    assert tree[0, 0, :3] == pytest.approx(root)
    for n in (0, 1, 2):
        assert len(grow_tree(generator("t"), points[:n], root, tip=0.3)) == 2 * n


def test_smaller_lungs_are_denser_by_the_tissue_that_they_keep():
    lung = draw_lung(generator("lung"))
    assert inflated(lung, MEAN_SCALE).hu == pytest.approx(lung.hu)
    smaller = inflated(lung, MEAN_SCALE * 0.95)
    assert smaller.hu + 1000 == pytest.approx((lung.hu + 1000) / 0.95**3)
    assert smaller.mottle > inflated(lung, MEAN_SCALE * 1.1).mottle
    drawn = [draw_lung(generator(k)).hu for k in range(200)]
    assert np.mean(drawn) == pytest.approx(_lung.MEAN_TISSUE - 1000, abs=10)


def test_room_is_made_for_a_lesion_wherever_it_lies():
    chest = draw_chest(generator("c"), pixel=0.7, height=300)
    for y, x in ((60, 60), (180, 180), (300, 100), (180, 30)):
        points = np.array([[z, y + dy, x] for z in (140, 150) for dy in (0, 4)], float)
        made = make_room(chest, points)
        assert made.radial(145.0, points[:, 1], points[:, 2])[0].max() <= 0
        assert made.diaphragm(*points.T).max() < 0


def test_average_distance_of_a_ball_and_of_readers_apart():
    z, y, x = np.ogrid[-9:10, -20:21, -20:21]
    ball = (2.0 * z) ** 2 + y**2 + x**2 <= 12**2
    distance = _average_distance(np.array([ball, ball]), (2.0, 1.0, 1.0))
    assert distance[9, 20, 20] == pytest.approx(-12, abs=1)
    assert distance[9, 20, 37] == pytest.approx(5, abs=1)
    left, right = np.zeros((2, 3, 9, 30), bool)
    left[1, 3:6, 3:6] = right[1, 3:6, 24:27] = True
    apart = _average_distance(np.array([left, right]), (1.0, 1.0, 1.0))
    assert apart[1, 4, 4] < 0
    assert apart[1, 4, 25] < 0
