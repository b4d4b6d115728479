"""The workbench's controls, without a browser."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lesionlab import explorer
from lesionlab.explorer.bench import UNCHANGED, Request
from lesionlab.papers import wang2021
from lesionlab.papers.liu2020 import imagenet
from lesionlab.sources import lidc

PATIENCE = 60


@pytest.fixture(scope="module")
def models(toys: Any) -> dict[str, Any]:
    pytest.importorskip("ipywidgets")
    pytest.importorskip("anywidget")
    return {"HESAM": toys.lei(), "ratings": toys.lei("sam_ratings")}


@pytest.fixture
def made(models: dict[str, Any], toys: Any) -> Any:
    return explorer.workbench(models, toys.crops(), ratings=lidc.nodules())


def settled(workbench: Any) -> Any:
    assert workbench.wait(PATIENCE)
    return workbench.result


def test_it_begins_with_a_lesion_that_the_model_was_tested_on(made, toys):
    expected = Request(toys.IDS[0], "HESAM", "HESAM", "malignant")
    assert made.request == made.result.request == expected
    assert made.viewer.scenes == made.result.scenes
    assert made.viewer.slice == 5, "the middle of 11, where the map lies"
    assert made.viewer.method == "HESAM"
    assert "Workbench('HESAM', 'ratings', 3 lesions)" in repr(made)
    assert list(made.children[-2].children) == [made.viewer, made._controls.values]
    assert made.result.what_if() is None


def test_the_scores_that_a_class_rests_on_have_sliders(models, toys, tmp_path):
    fold = toys.liu()
    made = explorer.workbench({"MTMR-Net": fold}, toys.crops(), ratings=lidc.nodules())
    crop = toys.crops()[toys.IDS[0]]
    features = imagenet.features([crop], pretrained=False, folder=tmp_path)
    expected = replace(fold, samples=features, table=fold.table[:1]).predict(device="cpu")[0]
    said = made.result.before.predicted
    assert said["probability of malignant"] == pytest.approx(expected[0].item(), abs=1e-4)
    assert said["texture"] == pytest.approx(expected[8].item(), abs=1e-3)
    assert made.viewer.method == "Grad-CAM"
    look = made.result.before
    assert look.map.shape == look.hu.shape == (len(features.nodule), 256, 256)
    assert np.isfinite(look.map[:, 16:-16, 16:-16]).all()
    assert np.isnan(look.map[:, :16]).all()
    (sliders,) = made._sliders.children
    page = sliders._page
    assert page.probability() == pytest.approx(expected[0].item(), abs=1e-4)
    assert page.scores.loc["texture", "readers"] == fold.table["texture"].iloc[0]
    assert 'class="lesionlab-what-if"' in made.to_html()
    made.ask(about="malignancy_rating")  # it is made of the probability
    np.testing.assert_array_equal(settled(made).before.map, look.map)
    made.ask(surroundings="air")
    after = settled(made).after.predicted["probability of malignant"]
    (moved,) = made._sliders.children
    assert moved is not sliders
    assert moved._page.probability() == pytest.approx(after, abs=1e-5)
    assert "air beyond 0 mm" in moved._page.title


@pytest.mark.parametrize("variant", ["masked_type_narrow", "joint_type_narrow"])
def test_a_mask_is_edited_and_the_class_moves(models, toys, variant):
    fold = toys.wang(variant)
    both = {"Wang": fold, "HESAM": models["HESAM"]}
    made = explorer.workbench(both, toys.crops(), ratings=lidc.nodules())
    controls, before = made._controls, made.result.before
    network, patch = fold.model(), fold.experiment.inputs(fold.samples.select([0]))[0]
    image, mask = patch[:, :1], patch[:, 1:].nan_to_num(0.0)
    with torch.no_grad():
        if network.unet is not None:
            mask = network.unet(image)[0].sigmoid() * patch[:, 1:].isfinite()
        for how, edit in wang2021.EDITS.items():
            controls.mask.value = how
            after = settled(made).after
            assert f"mask {how}" in made.viewer.scenes[-1].title
            given = image * edit(mask)  # eq. 3; 0 is −312 HU
            np.testing.assert_allclose(after.hu, given[0, 0] * 712 - 312, atol=0.1)
            p = network.classifier(network.encoder(given)[0]).softmax(1)[0].tolist()
            np.testing.assert_allclose([*after.predicted.values()], p, atol=1e-5)
            assert max(abs(np.subtract(p, [*before.predicted.values()]))) > 1e-6
    made.ask(model="HESAM")
    assert settled(made).after is None
    assert controls.mask.disabled
    with pytest.raises(ValueError, match="mask='none': HESAM is given no mask"):
        made.ask(mask="none")
    with pytest.raises(ValueError, match="mask='eaten': expected one of"):
        made.ask(model="Wang", mask="eaten")


def test_a_change_stands_beside_what_it_was_on_the_same_slice(made):
    made.viewer.slice = 3
    made.ask(surroundings="lung", margin=2.0)
    result = settled(made)
    viewer = made.viewer
    assert (len(viewer.scenes), viewer.compare) == (2, True)
    assert (viewer.slice, viewer.other_slice) == (3, 3)
    before, after = (r["predicted"] for s in viewer.scenes for r in s.ratings if r["predicted"])
    assert before == pytest.approx(result.before.predicted["probability of malignant"])
    assert after == pytest.approx(result.after.predicted["probability of malignant"])
    words = made._controls.values.value
    assert re.search(f">{before:.3f}</td>.*>{after:.3f}</td>", words, re.DOTALL)
    made.ask(**UNCHANGED)
    settled(made)
    assert (len(viewer.scenes), viewer.compare, viewer.slice) == (1, False, 3)


def test_every_control_asks_for_its_part(made, toys):
    c = made._controls
    c.surroundings.value = "air"
    assert settled(made).request.surroundings == "air"
    c.margin.value = 2.5
    c.reverse.value = True
    c.duplicate.value = 4
    change = {"surroundings": "air", "margin": 2.5, "duplicate": 4, "reverse": True}
    assert settled(made).request == Request(toys.IDS[0], "HESAM", "HESAM", "malignant", **change)
    assert len(c.duplicate.options) == 12, "none, or one of 11 slices"
    c.undo.click()
    assert settled(made).request.change == ""
    assert (c.surroundings.value, c.duplicate.value, c.reverse.value) == (None, None, False)
    assert [w.index for w in (c.surroundings, c.duplicate)] == [0, 0], "None is shown as chosen"
    assert c.undo.disabled
    c.method.value = "HESAM, exact"
    c.about.value = "benign"
    assert settled(made).request == Request(toys.IDS[0], "HESAM", "HESAM, exact", "benign")
    c.model.value = "ratings"
    assert settled(made).request.model == "ratings"
    assert (c.about.description, len(c.about.options)) == ("Rating", 9)
    c.lesion_id.value = f" {toys.IDS[2]} "
    assert settled(made).request.lesion_id == toys.IDS[2]
    c.listed.value = toys.IDS[1]
    assert settled(made).request.lesion_id == toys.IDS[1]
    assert c.lesion_id.value == toys.IDS[1]
    assert made.error == ""


def test_filters_list_and_count(made, toys):
    c = made._controls
    assert "3 of 3 lesions" in c.count.value
    c.column.value, c.relation.value, c.value.value = "malignancy", "at least", "3"
    c.add.click()
    expected = made.table[made.table["malignancy"] >= 3].sort_values("malignancy", ascending=False)
    assert [name for _, name in c.listed.options] == list(expected.index)
    assert f"{len(expected)} of 3 lesions" in c.count.value
    assert c.listed.options[0][0].endswith(f"malignancy {expected['malignancy'].iloc[0]:.4g}")
    c.column.value, c.relation.value, c.value.value = "tier", "equal to", "dicom"
    c.add.click()
    assert "0 of 3 lesions" in c.count.value
    assert c.listed.options == ()
    last = c.filters.children[-1]
    assert last.description == "Remove: tier equal to dicom"
    last.click()
    assert [one[0] for one in made.filters] == ["malignancy"]
    rows = made.filter(("n_slices", "at least", 6), ("malignancy, range", "at most", 4))
    assert list(rows.index) == [name for _, name in c.listed.options] == [toys.IDS[2]]


def test_the_error_of_a_model_can_be_filtered_by(models, toys):
    said, truth = models["HESAM"].predict(device="cpu"), models["HESAM"].labels
    frame = pd.DataFrame({"lesion_id": toys.TESTED, "malignancy": said[:, 0].double(),
                          "malignancy_truth": truth[:, 0].double()})  # fmt: skip
    predictions = {"HESAM": frame}
    made = explorer.workbench({"HESAM": models["HESAM"]}, toys.crops(), predictions=predictions)
    own = made.table["error, HESAM"]
    off = (said - truth).abs()[:, 0].numpy()
    assert own[list(toys.TESTED)].to_numpy() == pytest.approx(off, abs=1e-5)
    assert np.isnan(own[toys.IDS[2]])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no memory & <b>time</b>"), "RuntimeError: no memory & <b>time</b>"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_exception_in_the_model_is_said_in_the_widget(made, monkeypatch, error, said):
    before, page = made.result, made.viewer.scenes

    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(made.bench.models["HESAM"], "asked", broken)
    made._controls.reverse.value = True
    assert made.wait(PATIENCE)
    assert made.error == said
    alert = made._controls.alert.value
    assert 'role="alert"' in alert
    assert escape(said) in alert
    assert f"shown is still {before.request.lesion_id}, as it is" in made._controls.status.value
    assert (made.result, made.viewer.scenes) == (before, page)
    monkeypatch.undo()
    made._controls.undo.click()
    assert settled(made).request.change == ""
    assert (made.error, made._controls.alert.value) == ("", "")


def test_what_is_typed_wrongly_is_said_in_the_widget(made):
    c = made._controls
    c.lesion_id.value = "LIDC-IDRI-9999"
    assert "lesion_id='LIDC-IDRI-9999': not among the 3 lesions here" in made.error
    assert "LIDC-IDRI-9999" in c.alert.value
    c.column.value, c.value.value = "malignancy", "much"
    c.add.click()
    assert made.error == "malignancy: expected a number, got 'much'"
    c.value.value = "1"
    c.add.click()
    assert (made.error, c.alert.value) == ("", "")
    assert len(made.filters) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_an_older_request_never_overwrites_a_newer_one(made, toys, monkeypatch, fails):
    model = made.bench.models["HESAM"]
    begun, go, asked = threading.Event(), threading.Event(), model.asked

    def slow(given: Any, lesion_id: str, *rest: Any) -> Any:
        if lesion_id == toys.IDS[1]:
            begun.set()
            assert go.wait(PATIENCE)
            if fails:
                raise RuntimeError("too late to be told")
        return asked(given, lesion_id, *rest)

    monkeypatch.setattr(model, "asked", slow)
    shown: list[str] = []
    made.viewer.observe(lambda c: shown.append(c["new"]["panels"][0]["title"]), "_data")
    made.ask(lesion_id=toys.IDS[1])
    assert begun.wait(PATIENCE)
    assert "predicting and looking" in made._controls.status.value
    made.ask(lesion_id=toys.IDS[2])  # does not wait
    assert not made.wait(0.05), "the first one holds the thread"
    go.set()
    assert settled(made).request.lesion_id == toys.IDS[2]
    assert [title.split(",")[0] for title in shown] == [toys.IDS[2]]
    assert "ready" in made._controls.status.value
    assert made.error == ""


def test_the_background_takes_no_random_number_away(made, toys):
    torch.manual_seed(7)
    expected = [float(torch.rand(1)) for _ in range(3)]
    passes, begun, go = [], threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        passes.append(1)
        if len(passes) == 2:  # predicting was the first: this is in the midst of the maps
            begun.set()
            assert go.wait(PATIENCE)

    handle = made.bench.models["HESAM"]._network.trunk.register_forward_pre_hook(hold)
    torch.manual_seed(7)
    drawn = [float(torch.rand(1))]
    made.ask(lesion_id=toys.IDS[1])
    assert begun.wait(PATIENCE)
    drawn.append(float(torch.rand(1)))
    go.set()
    settled(made)
    handle.remove()
    assert [*drawn, float(torch.rand(1))] == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lesion_id": "x"}, "lesion_id='x': not among the 3 lesions here"),
        ({"predictions": {"x": pd.DataFrame()}}, "predictions='x': expected one of HESAM, ratings"),
        ({"predictions": {"HESAM": pd.DataFrame()}}, "predictions: no column lesion_id"),
    ],
)
def test_wrong_arguments(models, toys, changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        explorer.workbench(models, toys.crops(), **changed)


def test_the_output_is_a_page_and_a_picture_of_what_is_shown_now(models, toys):
    nasty = "</script><img src=x onerror=alert(1)>"
    made = explorer.workbench({nasty: models["HESAM"]}, toys.crops())
    made.ask(lesion_id=toys.IDS[1], reverse=True)
    settled(made)
    shown = made._repr_mimebundle_()
    assert {"text/html", "image/png", "text/plain"} < set(shown)
    assert shown["image/png"].startswith(b"\x89PNG")
    page = shown["text/html"]
    assert "after: slices reversed" in page
    assert "needs Python: run this notebook in JupyterLab." in page
    for dead in ("Undo the changes", "Surroundings", "Add filter", "Lesion id", "<button"):
        assert dead not in page, "what needs Python does nothing here"
    assert "<img" not in page + made._controls.values.value, "a name is never markup"
    assert page.count("</script>") == 2, "the viewer's own"
    assert len(page) < 300_000


def test_without_widgets_the_first_page_is_left(models, toys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "lesionlab.explorer._workbench", raising=False)
    found = explorer.workbench(models, toys.crops(), lesion_id=toys.IDS[1])
    assert isinstance(found, explorer.VolumePage)
    assert found.scenes[0].title == f"{toys.IDS[1]}, HESAM"
    assert found.state["slice"] == 5
