"""Kept models as ONNX and as files of a site, without a browser."""

from __future__ import annotations

import base64
import json
import re
import sys
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lesionlab import live
from lesionlab.crops import Crop
from lesionlab.explorer.live import LivePage, be_the_attention
from lesionlab.papers import fu2021
from lesionlab.sources import lidc, phantom

NAME = "fu2021/full"
LESION = "LIDC-IDRI-0013-S0024-N03"
RUNTIME = {name: name.encode() for name in live.MEMBERS}


@pytest.fixture(scope="module")
def kept() -> live.Kept:
    return live.kept(NAME)


@pytest.fixture(scope="module")
def graphs(kept: live.Kept) -> dict[str, bytes]:
    pytest.importorskip("onnx", reason="pip install 'lesionlab[book]'")
    return live.graphs(kept)


@pytest.mark.parametrize("n", [1, 5])
def test_the_graphs_say_what_torch_says_for_any_number_of_slices(kept, graphs, n):
    reference = pytest.importorskip("onnx.reference")
    maps = torch.rand(n, 256, 8, 8, generator=torch.Generator().manual_seed(n))
    with torch.no_grad():
        expected = kept.live.head(maps)
    found = reference.ReferenceEvaluator(graphs["head"]).run(None, {"features": maps.numpy()})
    assert len(found) == len(kept.live.outputs)
    for given, wanted in zip(found, expected, strict=True):
        assert np.allclose(given, wanted, rtol=1e-4, atol=1e-5)


def test_weights_are_stored_in_half_precision_and_the_trunk_is_fed_hu(kept, graphs):
    onnx = pytest.importorskip("onnx")
    size = {name: len(raw) for name, raw in graphs.items()}
    n_parameters = sum(p.numel() for p in kept.network.parameters())
    assert 2 * n_parameters < sum(size.values()) + 2 * 2304 < 2.1 * n_parameters, "no ASCMM scores"
    graph = onnx.load_from_string(graphs["trunk"]).graph
    (hu,), (features,) = graph.input, graph.output
    assert (hu.name, features.name) == ("hu", "features")
    assert [d.dim_value for d in hu.type.tensor_type.shape.dim] == [0, 1, 64, 64]


def test_a_variant_without_its_modules_is_refused(kept):
    plain = fu2021.Fu2021("no_attention")
    other = replace(kept, experiment=plain, network=plain.model(0))
    with pytest.raises(ValueError, match="has no form that a page can run"):
        _ = other.live
    with pytest.raises(ValueError, match="not kept in"):
        live.kept("fu2021/volume")


# -- the site --------------------------------------------------------------------------


def index(site: Path) -> dict[str, Any]:
    text = (site / live.INDEX).read_text(encoding="utf-8")
    return json.loads(text.removeprefix("globalThis.lesionlabLive = ").rstrip(";\n"))  # type: ignore[no-any-return]


def bytes_in(site: Path, name: str) -> bytes:
    """What a page unpacks of a site's file."""
    text = ""
    for part in range(index(site)["files"][name]["parts"]):
        script = (site / f"{name}.{part}.js").read_text(encoding="utf-8")
        found = re.fullmatch(rf'lesionlabPart\("{name}", {part}, "([A-Za-z0-9+/=]*)"\);\n', script)
        assert found is not None, script[:80]
        text += found[1]
    return zlib.decompress(base64.b64decode(text))


def test_a_site_has_all_files_in_parts_and_makes_them_once(graphs, tmp_path, monkeypatch):
    site, asked = tmp_path / "site", []

    def runtime() -> dict[str, bytes]:
        asked.append(1)
        return RUNTIME

    for _ in range(2):
        assert live.build(site, cache=tmp_path / "cache", get_runtime=runtime) == ""
        monkeypatch.setattr(live, "graphs", None)  # a second build makes nothing
    assert asked == [1]
    assert bytes_in(site, "fu2021-full-phantom-head") == graphs["head"]
    assert bytes_in(site, "fu2021-full-phantom-trunk") == graphs["trunk"]
    for name in index(site)["runtime"]:
        assert bytes_in(site, name) == name.encode()
    sizes = index(site)["files"]["fu2021-full-phantom-trunk"]
    own = list(site.glob("fu2021-full-phantom-trunk.*.js"))
    assert sizes == {"parts": len(own), "bytes": sum(path.stat().st_size for path in own)}
    assert len(own) > 1, "progress can be seen"


def test_where_something_is_missing_the_site_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    words = live.build(tmp_path, cache=tmp_path / "cache", get_runtime=lambda: RUNTIME)
    assert words == "onnx is not installed: pip install 'lesionlab[book]'"
    assert index(tmp_path) == {"files": {}, "runtime": list(live.MEMBERS), "reason": words}
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(live.NotLiveError, match="there is no npm: install Node"):
        live.runtime()


@pytest.mark.parametrize(
    ("npm", "words"),
    [("exit 1", "npm could not get"), ("cp {other} .", "is not the package that was expected")],
)
def test_only_the_package_of_the_checksum_is_taken(npm, words, tmp_path, monkeypatch):
    other = tmp_path / "other.tgz"
    with tarfile.open(other, "w:gz"):
        pass
    program = tmp_path / "npm"
    program.write_text(f"#!/bin/sh\n{npm.format(other=other)}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *_, **__: str(program))
    with pytest.raises(live.NotLiveError, match=words):
        live.runtime()


# -- the page --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crop() -> Crop:
    return phantom.phantom(LESION)


@pytest.fixture(scope="module")
def page(crop: Crop) -> LivePage:
    return be_the_attention(NAME, crop, lidc.nodules(), label="Fu 2021")


def test_a_page_has_what_the_model_is_given_after_each_change_of_the_surroundings(page, crop):
    data = page.data()
    assert [one["text"] for one in data["stacks"]][:2] == [
        "as they are", "lung beyond 0 mm of the consensus",
    ]  # fmt: skip
    own = fu2021.prepare([crop]).images[:, 0].numpy()
    assert np.allclose(page.stacks["", "as they are"], own, atol=1e-3)
    alone = fu2021.prepare([replace(crop, hu=np.where(crop.consensus(), crop.hu, -1024))])
    bare = page.stacks["air-0", "air beyond 0 mm of the consensus"]
    assert np.allclose(bare, alone.images[:, 0], atol=1e-3)
    assert data["hu"]["low"] == -1024
    assert data["model"]["key"] == "fu2021-full-phantom"
    assert page.state["head"] == "malignancy"
    assert len(page.scene.maps) == 9
    assert page.to_png().startswith(b"\x89PNG")
