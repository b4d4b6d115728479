"""Fu's network alive in a page: the numbers of torch without a network or a kernel."""

from __future__ import annotations

import base64
import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lesionlab import explorer, live
from lesionlab.attention import activation_map
from lesionlab.explorer import _scene
from lesionlab.explorer.bench import Bench, Request
from lesionlab.papers import fu2021
from lesionlab.sources import lidc, phantom

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAME, LABEL = "fu2021/full", "Fu 2021"
LESION = "LIDC-IDRI-0013-S0024-N03"  # nine slices
CACHE = Path(__file__).parents[2] / "_build" / "live"
LIVE = "document.querySelector('.lesionlab-live > div').live"
LUNG_ON_IT = {"y": 32, "x": 32, "slice": None, "radius": 14, "seed": 1, "fill": -850}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="pip install 'lesionlab[book]'")
    folder = tmp_path_factory.mktemp("site")
    if reason := live.build(folder, cache=CACHE):
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="module")
def page() -> Any:
    return explorer.be_the_attention(NAME, phantom.phantom(LESION), lidc.nodules(), label=LABEL)


class Awake:
    """A page with its model, which may sleep."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.button = tab.get_by_role("button", name="Wake the model")

    def press(self, name: str) -> None:
        """Press a button by keys, and wait for what comes of it."""
        self.tab.get_by_role("button", name=name, exact=True).focus()
        self.tab.keyboard.press("Enter")
        self.rest()

    def rest(self) -> None:
        self.tab.wait_for_function(f"!{LIVE}.asking", timeout=300_000)

    def change(self, **change: Any) -> dict[str, np.ndarray]:
        """Ask about a change, as the controls do, and give the model's answer."""
        self.tab.evaluate(f"change => {LIVE}.change(change)", change)
        return self.last

    @property
    def last(self) -> dict[str, np.ndarray]:
        found = self.tab.evaluate(
            "live => Object.entries(live.last).filter(([, v]) => v.dims)"
            ".map(([name, { data, dims }]) => {"
            "  const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);"
            "  const text = raw.reduce((all, x) => all + String.fromCharCode(x), '');"
            "  return [name, btoa(text), dims];"
            "})",
            self.tab.evaluate_handle(LIVE),
        )
        values = {name: np.frombuffer(base64.b64decode(raw), np.float32) for name, raw, _ in found}
        return {name: values[name].reshape(dims) for name, _, dims in found}

    @property
    def alert(self) -> str:
        return str(self.tab.locator(".frame > [role=alert]").inner_text())

    @property
    def status(self) -> str:
        return str(self.tab.locator(".frame > [role=status]").inner_text())


Opened = Callable[..., AbstractContextManager[Awake]]


@pytest.fixture(scope="module")
def opened(show: Any, page: Any, site: Path) -> Opened:
    """Open the page on the site, or on another one."""

    @contextmanager
    def open_(page: Any = page, site: Path | None = site, **options: Any) -> Iterator[Awake]:
        with show(page.to_html(), site=site, **options) as tab:
            yield Awake(tab)

    return open_


@pytest.fixture(scope="module")
def woken(opened: Opened) -> Iterator[Awake]:
    """One page for several tests, woken by keys, as that takes seconds."""
    with opened() as seen:
        seen.button.wait_for()
        seen.asked = seen.tab.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
        seen.button.focus()
        seen.tab.keyboard.press("Enter")
        seen.tab.wait_for_function(f"{LIVE}.awake", timeout=300_000)
        yield seen


@pytest.fixture
def awake(woken: Awake) -> Awake:
    """That page, with nothing changed."""
    woken.press("Undo the changes")
    return woken


@functools.cache
def model() -> live.Kept:
    return live.kept(NAME)


def torch_says(images: np.ndarray) -> dict[str, np.ndarray]:
    """Of (slice, y, x) HU, by the network that Python has, with maps by its gradients."""
    kept, nodule = model(), torch.zeros(len(images), dtype=torch.int64)
    hu = torch.from_numpy(np.asarray(images, np.float32))[:, None]
    given = fu2021.prepare([phantom.phantom(LESION)])
    fed = kept.normalise(replace(given, images=hu, nodule=nodule))
    with torch.no_grad():
        said = kept.experiment.forward(kept.network, fed)
    maps = activation_map(kept.network, fed.images, "grad-cam", head=None, inputs=(nodule, 1)).maps
    return {
        "scores": kept.experiment.predict(said)[0].numpy(),
        "slice_weights": said.slice_weights.numpy(),
        "mixing": said.attribute_weights[0].numpy(),
        "maps": maps.numpy(),
    }


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        scale = np.abs(values).max() if name == "maps" else 1.0
        assert np.abs(found[name] - values).max() <= 1e-3 * scale, name


def painted(hu: np.ndarray) -> np.ndarray:
    y, x = np.indices((64, 64))
    return np.where((y - 32) ** 2 + (x - 32) ** 2 <= 14**2, -850, hu)


def test_it_says_what_torch_says_and_moves_the_right_way(awake, page):
    hu = page.stacks["", "as they are"]
    before = awake.last
    same(before, torch_says(hu))

    def moved(**change: Any) -> dict[str, float]:
        by = awake.change(**change)["scores"] - before["scores"]
        return dict(zip(page.model["columns"], by, strict=True))

    # nothing is left to be seen, or to be solid
    gone = moved(paints=[LUNG_ON_IT])
    same(awake.last, torch_says(painted(hu)))
    assert gone["subtlety"] < -0.2
    assert gone["texture"] < -0.5
    # what is denser than −400 HU looks like −400 HU: ground glass
    cut = moved(high=-400)
    same(awake.last, torch_says(np.minimum(hu, -400)))
    assert cut["texture"] < -0.5
    # without the heaviest slice the others share its weight
    rest = np.delete(np.arange(len(hu)), before["slice_weights"].argmax())
    moved(order=rest.tolist())
    same(awake.last, torch_says(hu[rest]))
    shares = before["slice_weights"][rest] / before["slice_weights"][rest].sum()
    assert np.abs(awake.last["slice_weights"] - shares).max() < 1e-4
    assert "8 slices, 0 of them new to it" in awake.status, "features of the others are kept"
    awake.change(paints=[LUNG_ON_IT | {"slice": 3}])
    assert "9 slices, 1 of them new to it" in awake.status


def test_it_wakes_from_a_folder(opened, page):
    with opened(served=False) as seen:
        assert not seen.tab.get_by_role("button", name="Drop").is_visible()
        seen.button.click()
        seen.tab.wait_for_function(f"{LIVE}.awake", timeout=300_000)
        assert "Python's" in seen.status
        assert not seen.tab.locator(".frame > [role=alert]").is_visible()
        same(seen.last, torch_says(page.stacks["", "as they are"]))


def test_what_the_workbench_can_do_gives_its_numbers(awake):
    crop, rows = phantom.phantom(LESION), lidc.nodules().loc[[LESION]]
    bench = Bench({LABEL: model().fold(crop, rows)}, {LESION: crop}, ratings=rows)
    asked = {"surroundings": "air", "margin": 2.0, "duplicate": 4, "reverse": True}
    result = bench.compute(Request(LESION, LABEL, about="margin", **asked))
    tab, after = awake.tab, result.after
    tab.get_by_label("Surroundings").select_option(label="air beyond 2 mm of the consensus")
    tab.get_by_label("One slice in all places").select_option("slice 5 of 9")
    tab.get_by_label("Reverse the slices").check()
    awake.rest()
    found, names = awake.last, list(after.predicted)
    assert np.abs(found["scores"] - list(after.predicted.values())).max() < 1e-3
    assert np.abs(found["slice_weights"] - after.weights).max() < 1e-3
    assert np.abs(found["maps"][names.index("margin")] - after.map).max() < 1e-3 * after.map.max()
    awake.press("Undo the changes")
    assert tab.get_by_label("Surroundings").input_value() == ""
    assert np.abs(awake.last["scores"] - list(result.before.predicted.values())).max() < 1e-3


def test_keys_alone_reorder_and_paint(awake):
    before = awake.last
    for name in ("Drop", "Repeat", "Later", "Earlier", "Paint"):
        awake.press(name)
    assert len(awake.last["slice_weights"]) == 9
    assert np.abs(awake.last["scores"] - before["scores"]).max() > 0.01
    cells = awake.tab.locator(".scroll tr").nth(9).inner_text().split("\t")[1:]
    _, old, new, change, *weights = (float(text.replace("−", "-")) for text in cells)
    assert change == pytest.approx(new - old, abs=2e-3)
    assert len(weights) == 2, "what CAAM gives to malignancy, before and now"
    assert "1 region painted over" in awake.tab.locator("caption").inner_text()


def test_the_page_is_small_before_the_click_and_asks_for_the_index_only(woken, page, site):
    assert len(page.to_html().encode()) + (site / live.INDEX).stat().st_size < 1_500_000
    asked = [name.rpartition("/")[2] for name in woken.asked if "_static" in name]
    assert asked == [live.INDEX]


def test_axe_finds_nothing_and_nothing_is_wider_than_a_phone(opened, accessible):
    with opened(theme="dark", width=390) as seen:
        accessible(seen.tab, ".lesionlab-live")


def test_axe_finds_nothing_where_it_is_awake(awake, accessible):
    awake.tab.set_viewport_size({"width": 390, "height": 900})
    awake.change(order=[0, 1], paints=[LUNG_ON_IT])
    accessible(awake.tab, ".lesionlab-live")


# -- what can be wrong -----------------------------------------------------------------


def test_a_stack_without_slices_is_not_asked_about_and_can_be_undone(awake):
    before = awake.last
    awake.change(order=[])
    assert "All slices are dropped" in awake.alert
    assert "Shown is the last answer" in awake.status
    awake.press("Drop")
    awake.press("Undo the changes")
    assert not awake.tab.locator(".frame > [role=alert]").is_visible()
    same(awake.last, before)


@pytest.fixture
def broken(site: Path, tmp_path: Path) -> Path:
    """A copy of the site, to take something away from."""
    return shutil.copytree(site, tmp_path / "site")


TRUNK, WASM = "fu2021-full-phantom-trunk.1.js", f"ort-{live.VERSION}-wasm.2.js"


@pytest.mark.parametrize("file", [TRUNK, WASM])
@pytest.mark.parametrize(
    ("damage", "words", "expected"),
    [
        ("missing", "cannot be read", "404"),
        ("cut off", "is cut off", "Invalid or unexpected token"),
    ],
)
def test_a_file_that_is_damaged_is_named_and_the_page_reads_on(
    opened, broken, file, damage, words, expected
):
    path = broken / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000])
    with opened(site=broken, expected=(expected, file)) as seen:
        seen.button.click()
        seen.tab.get_by_text("The model sleeps").wait_for()
        assert file in seen.alert
        assert words in seen.alert
        assert seen.tab.locator("[data-plane=axial]").first.is_visible()
        assert seen.tab.get_by_text("the end").is_visible()


def test_a_model_that_is_not_the_one_that_python_asked_is_told(opened, page):
    (rating, *others) = page.scene.ratings
    other = replace(page.scene, ratings=[rating | {"predicted": 1.0}, *others])
    with opened(page=replace(page, scene=other), served=False) as seen:
        seen.button.click()
        seen.tab.wait_for_function(f"{LIVE}.awake", timeout=300_000)
        assert "is not the one that Python asked" in seen.alert


def test_without_simd_a_site_or_an_index_the_page_says_so(opened, broken, page):
    with opened(script="WebAssembly.validate = () => false") as seen:
        assert "no WebAssembly SIMD" in seen.status
        assert not seen.button.is_visible()
    with opened(site=None) as seen:
        seen.tab.get_by_text("on the pages of the built book only").wait_for()

    def none() -> dict[str, bytes]:
        raise live.NotLiveError("there is no npm")

    assert live.build(broken, cache=broken / "cache", get_runtime=none) == "there is no npm"
    with opened(site=broken) as seen:
        seen.tab.get_by_text("built without live models: there is no npm").wait_for()
        assert not seen.button.is_visible()
        assert seen.tab.locator("[data-plane=axial]").first.is_visible()


def test_a_volume_with_gaps_is_shown_and_its_model_sleeps(opened, page):
    hu = page.stacks["", "as they are"].copy()
    hu[:, 5:9] = np.nan
    gaps = replace(page, scene=_scene.of(hu, title="gaps"), stacks={("", "as they are"): hu})
    with opened(page=gaps) as seen:
        assert "no value (NaN or infinite)" in seen.status
        assert not seen.button.is_visible()
        assert seen.tab.get_by_text("the end").is_visible()
