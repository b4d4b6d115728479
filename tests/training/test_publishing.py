import json

import numpy as np
import pytest

from lesionlab.training import publishing
from lesionlab.training.checkpoints import CheckpointError


@pytest.fixture(scope="module")
def kept(small_plan, small_loaded, small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return small_run, publishing.publish(small_plan, small_run, folder, loaded=small_loaded)


def again(path, tmp_path, **changed):
    """The same file under another name, with other entries."""
    about = json.loads(path.read_text())
    about.update(changed)
    (tmp_path / path.with_suffix(".csv").name).write_bytes(path.with_suffix(".csv").read_bytes())
    target = tmp_path / f"{len(list(tmp_path.glob('*.json')))}.json"
    target.write_text(json.dumps(about))
    return target


def test_numbers_and_no_weights(kept, small_plan):
    _, path = kept
    assert {p.suffix for p in path.parent.iterdir()} == {".json", ".csv"}
    assert path.stem == small_plan.name
    assert path.stat().st_size < 300_000


def test_what_is_read_is_what_was_run(kept):
    outcome, path = kept
    (one,) = publishing.published(path.parent, data="phantom").values()
    assert (one.variant, one.epochs) == ("full", 1)
    assert one.predictions.equals(outcome.predictions)
    values = outcome.scores["value"].to_numpy(dtype=float)
    assert np.array_equal(one.scores["value"].to_numpy(dtype=float), values, equal_nan=True)
    assert {"commit", "versions"} <= set(one.about)


def test_the_analysis_of_the_paper_is_kept(kept):
    _, path = kept
    (one,) = publishing.published(path.parent, data="phantom").values()
    assert {"ends", "profile", "weights", "agreement", "auxiliary"} == set(one.about["analysis"])
    weights = one.table("weights")
    assert weights.sum(axis=1).to_numpy(dtype=float) == pytest.approx(np.ones(9))
    assert "ratio" in one.table("ends").index
    final = one.table("auxiliary").loc["margin", "mae_final"]
    model = one.scores[(one.scores["target"] == "margin") & (one.scores["predictor"] == "model")]
    assert final == pytest.approx(float(model.set_index("metric").loc["mae", "value"]))


def test_other_data_and_other_folds_are_apart(kept, tmp_path):
    _, path = kept
    for folder, wanted in [
        (path.parent, {"data": "slices"}),
        (path.parent, {"data": "phantom", "by": "nodule"}),
        (tmp_path / "nothing", {}),
    ]:
        with pytest.raises(FileNotFoundError, match=r"holds no run with data=.*--publish FOLDER"):
            publishing.published(folder, **wanted)


@pytest.mark.parametrize(
    ("content", "told"),
    [("[]", "is no table"), ('{"plan": {}, "variant": "full"}', "has no folds, predictions, re")],
)
def test_results_of_another_version_are_named(tmp_path, content, told):
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(ValueError, match=rf"old\.json does not hold the results.*{told}"):
        publishing.published(tmp_path)


def test_more_folds_count_before_more_epochs(kept, tmp_path):
    _, path = kept
    about = json.loads(path.read_text())
    recipe = about["recipe"] | {"epochs": 9}
    again(path, tmp_path)
    longer = again(path, tmp_path, recipe=recipe)
    assert publishing.published(tmp_path, data="phantom")["full"].path == longer
    more = again(path, tmp_path, folds=about["folds"] * 2)
    assert publishing.published(tmp_path, data="phantom")["full"].path == more


def test_changed_predictions_are_refused(kept, tmp_path):
    _, path = kept
    again(path, tmp_path)
    table = tmp_path / path.with_suffix(".csv").name
    table.write_text(table.read_text().replace("LIDC-IDRI-0", "LIDC-IDRI-1", 1))
    with pytest.raises(CheckpointError, match=f"{table.name} is not what"):
        publishing.published(tmp_path, data="phantom")
