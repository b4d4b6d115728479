"""The volume viewer in Chromium, in a page without a kernel and with the network cut off."""

from __future__ import annotations

import base64
import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lesionlab import explorer
from lesionlab.crops import Crop

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SHAPE = (6, 20, 24)
NASTY = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"


def crop(seed: int = 0, depth: int = SHAPE[0], thickness: float = 2.5) -> Crop:
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1000, 300, (depth, *SHAPE[1:])).astype(np.int16)
    masks = np.zeros((3, *hu.shape), np.bool_)
    for reader in range(3):
        masks[reader, 1 : depth - 1, 5 + reader : 14, 6 : 15 + reader] = True
    at = np.arange(depth) + 40
    return Crop(f"LIDC-IDRI-000{seed + 1}-S0001-N01", hu, masks, (thickness, 0.7, 0.7), at,
                (100, 90), 0 * at, "phantom")  # fmt: skip


def maps(depth: int = SHAPE[0]) -> dict[str, dict[str, np.ndarray]]:
    shape = (depth, *SHAPE[1:])
    z, y, x = np.indices(shape)
    noise = np.random.default_rng(5).random(shape)
    bump = np.clip(np.exp(-((y - 9) ** 2 + (x - 10) ** 2) / 40) - 0.01, 0, None)
    bump /= 1 + np.abs(z - depth // 2)
    return {
        "Grad-CAM": {"malignancy": bump, "texture": noise},
        "SAM": {"malignancy": np.sin(x[0] / 4) * 2},
    }


RATINGS = {
    "readings": {"malignancy": [2, 3, 5], "texture": [5, 5, 5]},
    "predicted": {"malignancy": 3.25},
}


def views() -> dict[str, list[Any]]:
    """Name of a page to the viewers on it."""
    one = crop()
    weights = np.array([0.05, 0.1, 0.4, 0.25, 0.15, 0.05])
    whole = explorer.view(one, overlays=maps(), slice_weights=weights, **RATINGS)
    rng = np.random.default_rng(1)
    cube = rng.normal(-780, 40, (64, 64, 64)).round().astype(np.int16)
    ball = ((np.indices(cube.shape) - 31.5) ** 2).sum(axis=0) < 80
    smooth = np.exp(-((np.indices(cube.shape) - 30) ** 2).sum(axis=0) / 300)
    large = explorer.view(cube, masks=ball, tier="phantom", overlays={
        "a": {"m": smooth, "t": smooth**2}, "b": {"m": np.roll(smooth, 5, 1), "t": smooth**0.5},
    })  # fmt: skip
    nan = one.hu.astype(float)
    nan[:, 3:6, 3:6] = np.nan
    pair = explorer.view(one, other=explorer.view(crop(1, depth=11, thickness=1.25)))
    strong = maps()["Grad-CAM"]
    weak = {head: values / 8 for head, values in strong.items()}
    after = explorer.view(crop(1), overlays={"Grad-CAM": weak})
    before_after = explorer.view(one, overlays={"Grad-CAM": strong}, other=after)
    y, x = np.indices((64, 96))
    ramps = np.repeat((7 * x + 3 * y - 900)[None], 5, axis=0).astype(np.int16)
    lesion = np.zeros(ramps.shape, np.bool_)
    lesion[1:4, 40:46, 20:28] = True
    tiny = np.zeros(ramps.shape)
    tiny[3, 41:44, 22:25] = np.array([1.25e-5, 3e-6, 0])
    zoomed = explorer.view(ramps, masks=lesion, spacing=(2.5, 0.7, 0.7), tier="phantom",
                           overlays={"Grad-CAM": {"margin": tiny}})  # fmt: skip
    odd = [
        explorer.view(nan, title="with gaps"),
        explorer.view(np.full((1, 8, 8), -700), title="one slice", spacing=(1, 1, 1)),
        explorer.view(np.zeros((200, 512, 512), np.int16), title="whole scan"),
        explorer.view(np.full(SHAPE, np.nan), title="nothing"),
        explorer.view(one.hu, title=NASTY, tier=NASTY, overlays={NASTY: {NASTY: one.hu[0]}},
                      readings={NASTY: [1]}),
    ]  # fmt: skip
    # in a script this would make what follows part of it, up to the end of the page
    opens = "<!--<script>"
    swallowing = explorer.view(one.hu, title=opens, tier=opens, readings={opens: [1]})
    far = explorer.view(one.hu, title="far", spacing=(1, 1000, 0.001), predicted={"x": 1e9},
                        readings={"y": [-1e9, 1e9]})  # fmt: skip
    return {
        "hard": [swallowing, far],
        "whole": [whole], "large": [large], "pair": [pair], "alike": [before_after], "odd": odd,
        "zoomed": [zoomed],
    }  # fmt: skip


FOCUS = "const e = root.getRootNode().activeElement; return e.ariaLabel ?? e.textContent"
FIRST = "document.querySelector('.lesionlab-volume > div')"


class Seen:
    """An open page of viewers."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def viewer(self, script: str, index: int = 0) -> Any:
        """Evaluate with `viewer`, what mountViewer gave, after it has drawn."""
        return self.page.evaluate(
            "async ([code, index]) => {"
            "  const host = document.querySelectorAll('.lesionlab-volume > div')[index];"
            "  const { viewer } = host, AsyncFunction = (async () => {}).constructor;"
            "  await viewer.ready; await viewer.settled();"
            "  return new AsyncFunction('viewer', 'root', code)(viewer, viewer.root);"
            "}",
            [script, index],
        )

    def array(self, script: str) -> np.ndarray:
        """One typed array."""
        return np.array(self.viewer(f"return [...{script}]"))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of the first picture, pixels of the page."""
        place = self.page.locator("[data-plane=axial]").first.bounding_box()
        return place["x"], place["y"], place["width"], place["height"]

    def point(self, along: float, down: float) -> None:
        """Move the mouse to a place of the first picture, in shares of its size."""
        x, y, width, height = self.box
        self.page.mouse.move(x + along * width, y + down * height)

    @property
    def probe(self) -> str:
        """What is told of the pinned voxel, or of the one under the pointer."""
        return str(self.page.locator(".probe").first.inner_text())

    def get(self, key: str) -> Any:
        return self.viewer(f"return viewer.model.get('{key}')")

    def set(self, **values: Any) -> None:
        for pair in values.items():
            self.page.evaluate(f"pair => {FIRST}.viewer.model.set(...pair)", list(pair))
        self.viewer("")

    def pixels(self, plane: str = "axial", panel: int = 0) -> np.ndarray:
        """(row, column, RGB) of one canvas."""
        script = f"""return root.querySelectorAll('.panel')[{panel}]
            .querySelector("[data-plane={plane}]").toDataURL()"""
        raw = base64.b64decode(self.viewer(script).partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).astype(int)

    def voxels(self, **options: Any) -> np.ndarray:
        """(y, x, RGB): the colour in the middle of each voxel."""
        image = self.pixels(**options)
        height, width = SHAPE[1:]
        y = ((np.arange(height) + 0.5) / height * len(image)).astype(int)
        x = ((np.arange(width) + 0.5) / width * image.shape[1]).astype(int)
        return image[np.ix_(y, x)]


@pytest.fixture(scope="module")
def pages() -> dict[str, list[str]]:
    return {name: [viewer.to_html() for viewer in shown] for name, shown in views().items()}


@pytest.fixture
def opened(show: Any, pages: dict[str, list[str]]) -> Any:
    """Open one of the pages."""

    @contextlib.contextmanager
    def open_(name: str, **options: Any) -> Iterator[Seen]:
        with show(*pages[name], **options) as page:
            yield Seen(page)

    return open_


@pytest.fixture
def whole(opened: Any) -> Iterator[Seen]:
    with opened("whole") as seen:
        yield seen


# -- values ----------------------------------------------------------------------------


def test_the_browser_has_arrays_and_ratings_as_given_and_tells_the_slice(whole):
    one = crop()
    assert np.array_equal(whole.array("viewer.volumes[0].hu").reshape(SHAPE), one.hu)
    for reader, mask in enumerate(one.masks):
        shown = whole.array(f"viewer.volumes[0].masks[{reader}]")
        assert np.array_equal(shown.reshape(SHAPE), mask)
    marked = whole.array("viewer.volumes[0].consensus")
    assert np.array_equal(marked.reshape(SHAPE), one.consensus())
    rows = whole.page.locator(".ratings [role=row]")
    assert rows.count() == 3
    assert rows.nth(1).inner_text().split("\n") == [
        "Malignancy", "readers gave 2, 3, 5", "3.25", "3.333 (2–5)",
    ]  # fmt: skip
    assert rows.nth(2).inner_text().split("\n")[2:] == ["–", "5 (5–5)"]
    whole.set(slice=2)
    words = "slice 3 of 6 · z 105.0 mm from the scan's first slice · attention 0.4"
    slider = whole.page.get_by_role("slider", name="Slice", exact=True)
    assert slider.get_attribute("aria-valuetext") == words
    canvas = whole.page.locator("[data-plane=axial]").first
    assert canvas.get_attribute("aria-label") == f"{one.lesion_id}, {words}"


def test_a_large_cube_is_close_and_says_by_how_much(opened):
    (viewer,) = views()["large"]
    (scene,) = viewer.scenes
    with opened("large") as seen:
        raw = seen.array("viewer.volumes[0].hu")
        step = seen.viewer("return viewer.volumes[0].panel.hu.step")
        off = np.abs(np.reshape(raw, scene.hu.shape) - scene.hu)
        assert step > 1
        assert off.max() <= step / 2
        seen.set(slice=31, cursor=[31, 31])
        shown = f"{np.rint(scene.hu[31, 31, 31] / step) * step:.0f}".replace("-", "−")
        assert seen.probe.startswith(f"HU ≈ {shown} ± {step / 2:g} ")
        values = seen.array("viewer.volumes[0].map('a', 'm').values")
        error = seen.viewer("return viewer.volumes[0].map('a', 'm').error")
        assert np.abs(values - scene.maps["a", "m"].ravel()).max() <= error + 1e-6 < 0.03


@pytest.mark.parametrize(
    ("place", "method", "head"),
    [((0, 0, 0), "Grad-CAM", "texture"), ((5, 19, 23), "SAM", "malignancy")],
)
def test_the_probe_tells_what_the_arrays_hold(whole, place, method, head):
    z, y, x = place
    whole.set(slice=z, method=method, head=head)
    canvas = whole.page.locator("[data-plane=axial]").first
    _, _, width, height = whole.box
    canvas.click(position={"x": (x + 0.5) / SHAPE[2] * width, "y": (y + 0.5) / SHAPE[1] * height})
    value = np.broadcast_to(maps()[method][head], SHAPE)[place]
    found = whole.get("probe")
    assert (found["z"], found["y"], found["x"]) == place
    assert found["hu"] == crop().hu[place]
    assert found["map"] == pytest.approx(value, abs=5e-5 * 4)
    mm = (2.5 * (40 + z), 0.7 * (100 + y), 0.7 * (90 + x))
    assert found["mm"] == pytest.approx(mm)
    parts = whole.probe.replace("−", "-").split(" · ")
    assert parts[0] == f"HU {crop().hu[place]}"
    assert float(parts[1].removeprefix("map ")) == pytest.approx(value, abs=2e-4)
    assert parts[2] == "z {:.1f}, y {:.1f}, x {:.1f} mm".format(*mm)
    assert parts[3] == f"voxel ({z}, {y}, {x})"


# -- pixels ----------------------------------------------------------------------------


def grey(hu: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.clip((hu.astype(float) - (centre - width / 2)) / width, 0, 1) * 255


@pytest.mark.parametrize("window", [(-600, 1500), (40, 400), (-300, 90)])
def test_a_voxels_grey_is_its_hu_in_the_window(whole, window):
    centre, width = window
    whole.set(method="", show_contours=False, slice=3, window_centre=centre, window_width=width)
    shown = whole.voxels()
    # the names of tier and scale bar lie over the corners
    expected = grey(crop().hu[3], centre, width)
    assert np.abs(shown[4:16] - expected[4:16, :, None]).max() <= 1


def test_an_overlay_is_the_colour_of_its_value(whole):
    from matplotlib import colormaps

    whole.set(show_contours=False, slice=3, method="Grad-CAM", head="texture", opacity=1.0)
    values = maps()["Grad-CAM"]["texture"]
    share = (values[3] - values.min()) / np.ptp(values)
    strong = share > 0.5  # drawn with the full opacity
    colour = colormaps["viridis"](np.rint(share * 255).astype(int))[..., :3] * 255
    shown = whole.voxels()
    assert np.abs(shown - colour)[4:16][strong[4:16]].max() <= 4
    # at half the opacity, half of the slice is seen through it
    whole.set(opacity=0.5)
    through = 0.5 * colour + 0.5 * grey(crop().hu[3], -600, 1500)[..., None]
    assert np.abs(whole.voxels() - through)[4:16][strong[4:16]].max() <= 4


def test_scale_bar_and_outlines_are_where_they_belong_in_their_colours(whole):
    whole.set(method="", slice=2, show_contours=False, window_centre=5000)  # a black slice
    image = whole.pixels()
    assert image[60:-60].max() == 0
    # 24 columns of 0.7 mm are 16.8 mm: the longest bar of at most a third is 5 mm
    bar = (image[len(image) - 11] > 250).all(axis=-1)
    assert bar.sum() == pytest.approx(5 / 0.7 * image.shape[1] / SHAPE[2], abs=2)
    whole.set(show_contours=True, hidden_readers=[1, 2])
    image = whole.pixels()
    blue = np.argwhere((np.abs(image - [0, 0x72, 0xB2]) < 12).all(axis=-1))
    (top, left), (low, right) = blue.min(axis=0), blue.max(axis=0)
    scale = len(image) / SHAPE[1]
    assert [top / scale, (low + 1) / scale] == pytest.approx([5, 14], abs=0.3)
    assert [left / scale, (right + 1) / scale] == pytest.approx([6, 15], abs=0.3)
    whole.set(hidden_readers=[0, 1, 2], show_consensus=True)
    image = whole.pixels()
    white = np.argwhere((image > 240).all(axis=-1)[60:-60]) + np.array([60, 0])
    # two of three readers: rows 6 to 14, columns 6 to 16
    assert white.min(axis=0) / scale == pytest.approx([6, 6], abs=0.3)
    assert (white.max(axis=0) + 1) / scale == pytest.approx([14, 16], abs=0.3)


def test_upright_planes_show_the_same_voxels(whole):
    whole.set(method="", show_contours=False, slice=1, cursor=[9, 10], orthogonal=True)
    for plane, cut in (("coronal", crop().hu[:, 9]), ("sagittal", crop().hu[:, :, 10])):
        image = whole.pixels(plane=plane)
        depth, width = cut.shape
        # mm: 6 slices of 2.5 by 24 or 20 voxels of 0.7
        assert len(image) / image.shape[1] == pytest.approx(depth * 2.5 / (width * 0.7), rel=0.02)
        rows = ((np.arange(depth) + 0.5) / depth * len(image)).astype(int)
        columns = ((np.arange(width) + 0.25) / width * image.shape[1]).astype(int)
        shown = image[np.ix_(rows, columns)][..., 0]
        expected = grey(cut[::-1], -600, 1500)  # the head above
        # cross, tag and scale bar lie over some
        assert np.mean(np.abs(shown - expected) <= 1) > 0.6
    whole.page.locator("[data-plane=coronal]").first.click(position={"x": 3, "y": 3})
    assert (whole.get("slice"), whole.get("cursor")) == (5, [9, 0])


CONTROLS = {
    "Slice": lambda c: c.fill("0"),
    "Preset": lambda c: c.select_option("soft tissue"),
    "Centre (HU)": lambda c: (c.fill("-100"), c.blur()),
    "Width (HU)": lambda c: (c.fill("300"), c.blur()),
    "Opacity": lambda c: c.fill("0.1"),
    "Attention map": lambda c: c.select_option("SAM"),
    "Rating": lambda c: c.select_option("texture"),
    "Window centre": lambda c: c.fill("-400"),
    "Window width": lambda c: c.fill("700"),
    "Zoom in": lambda c: c.click(),
    "readers' outlines": lambda c: c.uncheck(),
    "reader 2": lambda c: c.uncheck(),
    "consensus (≥ half)": lambda c: c.check(),
    "coronal and sagittal": lambda c: c.check(),
}


CHANGED = (
    "slice", "window_centre", "window_width", "opacity", "method", "head", "show_contours",
    "hidden_readers", "show_consensus", "orthogonal", "zoom", "pan",
)  # fmt: skip


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_changes_the_picture_and_back(whole, name):
    before = whole.pixels()
    control = whole.page.get_by_label(name, exact=True).first
    state = {key: whole.get(key) for key in CHANGED}
    CONTROLS[name](control)
    after = whole.pixels()
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    whole.set(**state)
    assert np.array_equal(whole.pixels(), before)


# -- wheel, keys, drag -----------------------------------------------------------------


def test_the_wheel_scrolls_the_page_until_the_viewer_is_in_use(whole):
    whole.page.set_viewport_size({"width": 1100, "height": 500})
    whole.set(slice=2)
    x, y, *_ = whole.box
    whole.page.mouse.move(x + 50, y + 250)
    whole.page.mouse.wheel(0, 100)
    whole.page.wait_for_function("scrollY > 50")
    assert whole.get("slice") == 2, "only passing by"
    whole.page.evaluate("scrollTo(0, 0)")
    whole.page.wait_for_function("scrollY === 0")
    whole.page.mouse.click(x + 50, y + 250)
    for way, expected in ((-100, 3), (100, 2), (100, 1), (100, 0)):
        whole.page.mouse.wheel(0, way)
        whole.page.wait_for_function(f"{FIRST}.viewer.model.get('slice') === {expected}")
        assert whole.page.evaluate("scrollY") == 0
    whole.page.mouse.wheel(0, 100)
    whole.page.wait_for_function("scrollY > 0")
    assert whole.get("slice") == 0, "at either end the page scrolls on"


def touch(page: Any, *ways: tuple[float, float, float, float]) -> None:
    """One finger or two, each from (x, y) so far along (x, y), in ten steps."""
    session = page.context.new_cdp_session(page)
    for step in range(12):
        kind = "touchStart" if step == 0 else "touchMove" if step < 11 else "touchEnd"
        points = [
            {"x": x + step / 10 * along, "y": y + step / 10 * down, "id": finger}
            for finger, (x, y, along, down) in enumerate(ways if step < 11 else ())
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.detach()


def test_a_finger_swipes_through_the_slices_and_scrolls_the_page(opened):
    with opened("whole", width=390, has_touch=True) as seen:
        seen.set(slice=1, cursor=[])
        x, y, width, height = seen.box
        x, y = x + width / 2, y + height / 2
        seen.page.touchscreen.tap(x + 1, y + 1)
        assert seen.get("cursor") == [10, 12]
        third = width / 3  # of six slices
        for along, expected in ((third, 3), (-third - 2, 1)):
            touch(seen.page, (x, y, along, 4))
            assert seen.get("slice") == expected
            assert seen.get("cursor") == [10, 12], "a swipe pins no voxel"
        touch(seen.page, (x, y + 60, 3, -200))
        seen.page.wait_for_function("scrollY > 50")
        assert seen.get("slice") == 1


def test_everything_works_with_the_keyboard(whole):
    page = whole.page
    # all of the slice is seen, so that there is no button for it
    for tool in ("Zoom out", "Zoom in", "Outlines", "Full screen"):
        page.keyboard.press("Tab")
        assert whole.viewer(FOCUS) == tool
    page.keyboard.press("Tab")
    assert whole.viewer("return root.getRootNode().activeElement.dataset.plane") == "axial"
    whole.set(slice=2, cursor=[])
    steps = [
        ("PageUp", "slice", 3), ("PageDown", "slice", 2), ("End", "slice", 5), ("Home", "slice", 0),
        ("ArrowUp", "slice", 1), ("ArrowUp", "slice", 2), ("ArrowDown", "slice", 1),
        ("Shift+ArrowRight", "cursor", [10, 13]), ("Shift+ArrowUp", "cursor", [9, 13]),
        ("Shift+ArrowLeft", "cursor", [9, 12]), ("Shift+ArrowDown", "cursor", [10, 12]),
        ("+", "zoom", 1.25), ("-", "zoom", 1), ("+", "zoom", 1.25), ("0", "zoom", 1),
        ("w", "window_centre", 40), ("h", "head", "texture"), ("m", "method", "SAM"),
        ("c", "show_contours", False), ("Escape", "cursor", []),
    ]  # fmt: skip
    for key, name, value in steps:
        page.keyboard.press(key)
        assert whole.get(name) == value, key
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert whole.get("slice") == 2, "the slider comes next"
    names = []
    for _ in range(18):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate("(document.activeElement.shadowRoot ?? document).activeElement.tagName")
        )
    assert {"SELECT", "INPUT", "BUTTON", "SUMMARY"} <= set(names)


# -- enlarged and moved ----------------------------------------------------------------

VOXEL = re.compile(r"voxel \((\d+), (\d+), (\d+)\)")


def told(seen: Seen) -> tuple[int, ...]:
    """The voxel that is named under the pointer, once the move has been drawn."""
    seen.page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    seen.page.get_by_text(VOXEL).first.wait_for(timeout=5_000)
    found = VOXEL.search(seen.probe)
    assert found
    return tuple(map(int, found.groups()))


def test_the_voxel_under_a_resting_pointer_is_told_of_every_picture(zoomed):
    zoomed.point(1 / 3, 1 / 3)
    slice_, *place = told(zoomed)
    other = 0 if slice_ else 1
    zoomed.set(slice=other)
    assert told(zoomed) == (other, *place)
    zoomed.set(cursor=[1, 2])
    assert told(zoomed) == (other, *place), "the pointer goes before the pinned voxel"
    zoomed.point(-0.02, -0.02)
    assert told(zoomed) == (other, 1, 2)


def tool(seen: Seen, name: str) -> Any:
    return seen.page.get_by_role("button", name=name, exact=True)


def enlarged(seen: Seen) -> str:
    text: str = seen.page.get_by_label("Enlarged", exact=True).inner_text()
    return text


@pytest.fixture
def zoomed(opened: Any) -> Iterator[Seen]:
    """A small lesion in a slice whose values say where a voxel is."""
    with opened("zoomed") as seen:
        seen.set(show_contours=False, method="", window_centre=-500, window_width=1000)
        yield seen


def assert_probe_and_pixels_agree(seen: Seen) -> None:
    """At some places of the canvas: the voxel that is named is the one that is drawn."""
    image = seen.pixels()
    for down, along in ((0.31, 0.42), (0.55, 0.53), (0.77, 0.9), (0.2, 0.71)):
        seen.point(along, down)
        _, y, x = told(seen)
        pixel = image[int(down * len(image)), int(along * image.shape[1]), 0]
        assert pixel == pytest.approx(grey(np.array(7 * x + 3 * y - 900), -500, 1000), abs=1.1)


def test_it_starts_at_the_lesion_and_goes_out_to_the_whole_slice(zoomed):
    def corners() -> list[tuple[int, ...]]:
        found = []
        for share in (0.01, 0.99):
            zoomed.point(share, share)
            found.append(told(zoomed)[1:])
        return found

    # around the 6 × 8 voxels of the lesion, whose middle is (43, 24), 32 × 48 of 64 × 96
    assert corners() == [(27, 0), (58, 47)]
    assert enlarged(zoomed) == "×2"
    assert_probe_and_pixels_agree(zoomed)
    near = zoomed.pixels()
    tool(zoomed, "Whole slice").click()
    assert corners() == [(0, 0), (63, 95)]
    assert_probe_and_pixels_agree(zoomed)
    tool(zoomed, "Zoom out").click()
    assert corners() == [(0, 0), (63, 95)], "there is no more"
    assert enlarged(zoomed) == "×1"
    tool(zoomed, "Fit lesion").click()
    assert np.array_equal(zoomed.pixels(), near)
    for _ in range(9):
        tool(zoomed, "Zoom in").click()
    assert enlarged(zoomed) == "×8", "8 voxels are left of 64"
    assert not np.array_equal(zoomed.pixels(), near)
    assert_probe_and_pixels_agree(zoomed)


def test_a_drag_moves_the_enlarged_slice_and_pins_nothing(zoomed):
    x, y, width, height = zoomed.box
    mouse = zoomed.page.mouse  # and what is in the middle, but not between two voxels
    middle = (x + width / 2 + 8, y + height / 2 + 8)

    under = []

    def drag(x: float, y: float) -> None:
        mouse.move(*middle)
        mouse.down()
        mouse.move(middle[0] + x, middle[1] + y, steps=4)
        under.append(told(zoomed))
        mouse.up()
        zoomed.viewer("")

    mouse.move(*middle)
    place, before = told(zoomed), zoomed.pixels()
    drag(-60, 40)
    assert under == [place], "while it is dragged, too"
    mouse.move(middle[0] - 60, middle[1] + 41)
    assert told(zoomed) == place
    assert not np.array_equal(zoomed.pixels(), before)
    assert zoomed.get("cursor") == []
    assert_probe_and_pixels_agree(zoomed)
    drag(3000, 3000)
    edge = zoomed.pixels()
    drag(-40, 0)
    assert not np.array_equal(zoomed.pixels(), edge), "from the edge it comes back at once"


def test_two_fingers_enlarge_and_move(opened):
    with opened("zoomed", width=390, has_touch=True) as seen:
        tool(seen, "Whole slice").tap()
        x, y, width, height = seen.box
        x, y = x + width / 2, y + height / 2
        # from 60 to 180 pixels apart, and 20 to the right
        touch(seen.page, (x - 30, y, -40, 0), (x + 30, y, 80, 0))
        seen.viewer("")
        assert enlarged(seen) == "×3"
        middle = seen.get("pan")[1] + 24  # where the lesion is; it was at 48
        assert middle == pytest.approx(48 - 20 / width * 96 / 3, abs=0.4)
        assert (seen.get("slice"), seen.get("cursor")) == (3, [])
        assert seen.page.evaluate("[scrollY, visualViewport.scale]") == [0, 1]


def test_full_screen_by_button_and_key(whole):
    *_, before, _ = whole.box
    tool(whole, "Full screen").click()
    whole.page.wait_for_function("document.fullscreenElement?.viewer")
    whole.viewer("")
    _, y, width, height = whole.box
    assert width > before
    assert y + height < 900, "no taller than the screen"
    whole.page.locator("canvas").first.focus()
    whole.page.keyboard.press("f")
    whole.page.wait_for_function("!document.fullscreenElement")


# -- maps, by name and on one scale ------------------------------------------------------


def ends(seen: Seen) -> list[list[str]]:
    """What stands at the ends of each visible colour bar."""
    bars = seen.page.locator(".scale:visible")
    return [bars.nth(i).locator("span").all_inner_texts() for i in range(bars.count())]


def colour(image: np.ndarray) -> np.ndarray:
    return image.max(axis=-1) - image.min(axis=-1)


def test_a_map_is_named_and_starts_where_it_is(opened):
    with opened("zoomed") as seen:
        assert seen.get("slice") == 3, "the lesion is on 1 to 3, the map on 3 alone"
        words = "Grad-CAM of Margin: 0 to 1.25e−5, strongest on slice 4"
        assert seen.page.get_by_text(words).is_visible()
        assert ends(seen) == [["0", "1.25e−5"]]
        seen.set(show_contours=False)
        assert (colour(seen.pixels()) > 30).sum() > 250, "three voxels"
        for cursor, value in (([42, 22], "1.25e−5"), ([42, 23], "3.00e−6"), ([42, 24], "0")):
            seen.set(cursor=cursor)
            assert f" · map {value} · " in seen.probe


def test_one_map_before_and_after_has_one_scale_until_that_is_switched_off(opened):
    own = float(maps()["Grad-CAM"]["malignancy"].max())
    high, low = f"{own:.4g}", f"{own / 8:.4g}"
    with opened("alike") as seen:
        seen.set(show_contours=False, opacity=1)
        assert ends(seen) == [["0", high], ["0", high]]
        assert seen.page.get_by_text(f"Grad-CAM of Malignancy: 0 to {low}, strongest").is_visible()
        before = colour(seen.pixels(panel=1)).mean()
        seen.page.get_by_label("same colour scale").uncheck()
        assert ends(seen) == [["0", high], ["0", low]]
        assert colour(seen.pixels(panel=1)).mean() > 2 * before
        seen.set(same_scale=True, other_head="texture")
        assert ends(seen)[0] == ["0", high], "two ratings have two scales"
        assert not seen.page.get_by_label("same colour scale").is_visible()


# -- side by side ----------------------------------------------------------------------


def test_two_nodules_scroll_by_the_same_mm_until_unlinked(opened):
    with opened("pair") as seen:
        # 6 slices of 2.5 mm beside 11 of 1.25 mm: 1.5 slices from the middle are 3
        seen.set(slice=4)
        assert seen.get("other_slice") == 5 + 3
        second = seen.page.get_by_label("Slice, second panel")
        second.fill("0")
        assert seen.get("slice") == 0, "5 slices from the middle are 2.5"
        seen.page.get_by_label("linked scrolling").uncheck()
        seen.set(slice=5)
        assert seen.get("other_slice") == 0
        expected = grey(crop(1, depth=11).hu[0], -600, 1500)
        seen.set(show_contours=False)
        assert np.abs(seen.voxels(panel=1)[4:16] - expected[4:16, :, None]).max() <= 1


# -- the picture -----------------------------------------------------------------------


def test_a_saved_file_shows_the_viewer_without_a_server(browser, tmp_path):
    path = views()["whole"][0].save(tmp_path / "one.html")
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('.lesionlab-volume > div')?.viewer")
    assert Seen(page).viewer("return viewer.model.get('error')") == ""
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    page.close()


def test_the_button_saves_a_png_of_what_is_seen(whole):
    whole.set(slice=2, orthogonal=True, cursor=[9, 10])
    with whole.page.expect_download() as waiting:
        whole.page.get_by_role("button", name="Save as PNG").click()
    saved = waiting.value
    assert saved.suggested_filename == "LIDC-IDRI-0001-S0001-N01_slice_3.png"
    raw = Path(saved.path()).read_bytes()
    assert raw.startswith(b"\x89PNG\r\n")
    image = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
    assert image.shape[1] == 2 * 444
    # the slice is in it, at twice 420 pixels from (12, 48)
    assert np.ptp(image[96:796, 24:864]) > 200


# -- odd input, old browsers, themes ---------------------------------------------------


def test_odd_volumes_are_shown_and_text_is_never_run(opened):
    with opened("odd") as seen:
        titles = seen.page.locator(".title:visible").all_inner_texts()
        assert titles == ["with gaps", "one slice", "whole scan", "nothing", NASTY]
        assert seen.page.evaluate("window.hit") is None
        notes = seen.page.locator(".notes:visible").all_inner_texts()
        assert any("54 voxels have no value (NaN or infinite): hatched" in n for n in notes)
        assert any("shown is 1 slice of" in n for n in notes)
        seen.set(slice=1, cursor=[4, 4])
        assert "no value" in seen.probe
        assert seen.get("probe")["hu"] is None
        gap = seen.voxels()[3, 5]
        assert gap[2] == gap[0] + 45, "bluish, as no HU is"
        assert seen.page.get_by_label("Slice", exact=True).nth(1).is_disabled()
        assert seen.page.get_by_text("the end").is_visible()


def test_text_swallows_nothing_and_values_far_off_do_not_freeze(opened):
    with opened("hard") as seen:
        titles = seen.page.locator(".title:visible").all_inner_texts()
        assert titles == ["<!--<script>", "far"]
        assert seen.page.get_by_text("the end").is_visible()
        tall, wide = seen.viewer(
            "const { height, width } = root.querySelector('.axial'); return [height, width]", 1
        )
        assert tall <= 20 * wide
        assert seen.viewer("return (await viewer.toPNG()).size", 1) > 1000


def test_a_browser_that_cannot_unpack_says_so(opened):
    # the module is there, the voxels are not
    script = (
        "const own = DecompressionStream; let n = 0; Object.defineProperty(window,"
        "'DecompressionStream', { get: () => (n++ < 2 ? own : undefined) })"
    )
    with opened("whole", ready=False, script=script) as seen:
        page = seen.page
        page.get_by_text("it has no DecompressionStream").wait_for()
        assert page.get_by_text("the end").is_visible()
        assert page.get_by_text("Firefox from 113").is_visible()
        assert page.locator("[role=alert]").is_visible()
        assert "DecompressionStream" in page.evaluate(f"{FIRST}.viewer.model.get('error')")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["whole", "pair", "odd"])
def test_axe_finds_nothing_and_nothing_is_wider_than_a_phone(name, theme, opened, accessible):
    with opened(name, theme=theme, width=390) as seen:
        seen.set(compare=True, orthogonal=True)
        assert seen.viewer("return root.classList.contains('dark')") is (theme == "dark")
        accessible(seen.page, ".lesionlab-volume")
        seen.viewer("root.querySelector('details').open = true")
        stick = seen.viewer(
            "const edge = root.getBoundingClientRect().right + 1;"
            "return [...root.querySelectorAll('*')].filter(e => !e.closest('.away') &&"
            "e.getBoundingClientRect().right > edge).map(e => e.tagName + '.' + e.className)"
        )
        assert stick == []
        assert seen.page.evaluate("document.scrollingElement.scrollWidth") == 390
