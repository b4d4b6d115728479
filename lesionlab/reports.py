"""A prediction as one HTML file: what a model says of lesions, where it looks, what to doubt.

The file needs no network and no kernel, has the explorer's viewer for each lesion, and says at its
top, at its end and on each printed page that it is no medical device.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from lesionlab import __version__, papers
from lesionlab.attributes import title
from lesionlab.explorer import volume
from lesionlab.explorer._html import document
from lesionlab.sources import origins
from lesionlab.tables import spell
from lesionlab.weights.calibration import LEVEL, N_SIMILAR

if TYPE_CHECKING:
    from lesionlab.predicting import Lesion, Prediction

NO_DEVICE = (
    "For research and teaching only. This is no medical device: nothing in it may be used to "
    "diagnose, to treat, or to decide about a person."
)

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
.notice { background: #7a1f1f; color: #fff; padding: .5rem 1rem; border-radius: .3rem; }
table { border-collapse: collapse; font-size: .9rem; margin: 1rem 0; display: block;
  overflow-x: auto; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
@media print { .every-page { position: fixed; bottom: 0; left: 0; right: 0; } }
"""


def page(found: Prediction) -> str:
    """The whole report; text from outside is escaped."""
    notice = f'<p class="notice every-page">{escape(NO_DEVICE)}</p>'
    about = found.about
    trained = about["folds"][0]["training"]
    paper = papers.get(about["plan"]["paper"])
    z, y, x = found.scan.spacing
    depth, rows, columns = found.scan.hu.shape
    parts = [
        "<h1>What a model says of a lesion</h1>",
        notice,
        f"<p>Model <b>{escape(found.model)}</b> after {escape(paper.title)}, trained on "
        f"{escape(found.data)}: {trained['lesions']:,} lesions of {trained['patients']:,} "
        f"patients. The scan has {depth} slices of {rows} × "
        f"{columns} pixels; a voxel is {z:.3g} × {y:.3g} × {x:.3g} mm (z, y, x).</p>",
        _list(found.notes),
        *(part for one in found.lesions for part in _lesion(one)),
        f"<h2>How well the model does</h2><p>On {len(about['patients']['unseen']):,} patients "
        f"({escape(found.data)}) that it has not seen, beside a predictor that says the same of "
        "every lesion. In brackets 95 % intervals.</p>",
        _table(_scores(about)),
        notice.replace(" every-page", ""),
        f"<p>lesionlab {escape(__version__)}</p>",
    ]
    return document("What a model says of a lesion", "\n".join(parts), style=STYLE)


def _lesion(one: Lesion) -> Iterable[str]:
    crop, values = one.crop, one.values
    yield f"<h2>{escape(crop.lesion_id)}</h2>"
    yield _list(one.notes)
    nearest, why = _nearest(one)
    other = None if nearest is None else volume.page(nearest, title=f"{one.similar[0]}, similar")
    yield volume.page(crop, other=other, **one.shown()).to_html()
    if nearest is not None:
        yield f"<p>“Compare” shows {escape(one.similar[0])} of LIDC-IDRI beside it, the lesion "
        yield "that looks most alike to the model.</p>"
    ratings = values[values["class"] == ""]
    if len(ratings):
        shown = pd.DataFrame({"rating": ratings["title"], "scale": ratings["scale"]})
        shown["model"] = ratings["value"].map("{:.1f}".format)
        shown["in words"] = ratings["words"]
        if ratings["low"].notna().any():
            shown[f"{LEVEL:.0%} interval"] = _between(ratings["low"], ratings["high"])
        if one.similar:
            between = _between(ratings["readers_low"], ratings["readers_high"])
            median = ratings["readers_median"].map("{:.1f}".format)
            shown["readers of similar lesions"] = median + " (" + between + ")"
        yield _table(shown)
        yield (
            f"<p>The interval held the mean of the readers for about {LEVEL:.0%} of the lesions of "
            "other patients; it says nothing about this one lesion in particular, and holds only "
            f"for lesions like LIDC-IDRI's. Readers: the median of all ratings of the {N_SIMILAR} "
            "lesions that look most alike to the model, and where 8 of 10 ratings lie.</p>"
        )
    if len(classes := values[values["class"] != ""]):
        shown = pd.DataFrame({"target": classes["title"], "class": classes["class"]})
        shown["probability"] = classes["value"].map("{:.2f}".format)
        yield _table(shown)
    if one.similar:
        yield f"<p>Similar lesions: {escape(', '.join(one.similar))}. {escape(why)}</p>"


def _nearest(one: Lesion) -> tuple[Any, str]:
    """The crop of the most similar lesion, or why it is not shown."""
    from lesionlab.sources.slices import Slices

    if not one.similar:
        return None, ""
    if origins.named(origins.SLICES) is None:
        return None, "Their pixels are not shown: LIDC-IDRI's slices are not at hand."
    try:
        return Slices().crop(one.similar[0]), ""
    except (OSError, LookupError, ValueError, RuntimeError):
        return None, "Their pixels are not shown: they cannot be read."


def _between(low: Any, high: Any) -> Any:
    return low.map("{:.1f}".format) + " to " + high.map("{:.1f}".format)


def _scores(about: dict[str, Any]) -> pd.DataFrame:
    """Error or area under the curve of the model and of the constant predictor."""
    scores = pd.DataFrame(about["scores"])
    rows = []
    for (target, metric), part in scores.groupby(["target", "metric"], sort=False):
        if metric not in ("mae", "auc"):
            continue
        by = part.set_index("predictor")
        own: Any = by.loc["model"]
        plain: Any = next(
            (by.loc[p, "value"] for p in ("constant", "majority") if p in by.index), None
        )
        called = {"mae": "mean absolute error", "auc": "area under the curve"}[metric]
        rows.append(
            {
                "target": title(str(target)),
                "score": called,
                "model": spell(own[["value", "low", "high"]]),
                "same for all": "" if plain is None else f"{plain:.2f}",
                "lesions": int(own["n"]),
            }
        )
    return pd.DataFrame(rows)


def _list(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def _table(frame: pd.DataFrame) -> str:
    return str(frame.to_html(index=False, border=0, escape=True, na_rep=""))
