"""Draw the real nodules of the chapter "What the words look like": `python book/atlas_picture.py`.

This needs the public LIDC-IDRI slices (`LESIONLAB_LIDC_SLICES`). `lesionlab.atlas.examples` chooses
among the nodules with real pixels: for each step, the nodule whose readers agree best on it. The
picture shows pixels of LIDC-IDRI (Armato et al. 2011, 2015; CC BY 3.0). The JSON file beside it
says which nodules they are, and which code drew them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from lesionlab import atlas, results
from lesionlab._files import replacing, write_json
from lesionlab.attributes import rating
from lesionlab.crops import Crop
from lesionlab.figures.realism import png
from lesionlab.figures.samples import Picture, largest_slice, sheet
from lesionlab.sources import lidc
from lesionlab.sources.slices import Slices

PLACE = Path(__file__).parent / "results" / "atlas"
ATTRIBUTES, STEPS = ("margin", "lobulation", "spiculation", "texture"), (1, 3, 5)
SEED, SIDE = 0, 36.0  # mm


def chosen(lesion_ids: list[str]) -> pd.DataFrame:
    """The examples, one row each, from the nodules that have real pixels."""
    only = {"steps": STEPS, "seed": SEED, "lesion_ids": lesion_ids}
    found = {
        name: atlas.examples(lidc.readings(), name, **only).query("kind == 'agree'")
        for name in ATTRIBUTES
    }
    return pd.concat(found, names=["attribute"]).reset_index("attribute")


def tile(crop: Crop, title: str) -> Picture:
    """The square of `SIDE` mm around the nodule, in its largest slice."""
    k = largest_slice(crop)
    half = round(SIDE / 2 / crop.spacing[2])
    centre = (int(axis.mean()) for axis in crop.consensus()[k].nonzero())
    # at the border of the crop, as near to the nodule as the square can be
    starts = (max(min(at, 128 - half) - half, 0) for at in centre)
    y, x = (slice(start, start + 2 * half) for start in starts)
    return Picture(crop.hu[k, y, x], crop.spacing[1:], title)


def draw(folder: Path, source: Slices) -> None:
    """Write real.png and real.json."""
    origin = results.provenance(Path(__file__).parents[1])  # before files differ from the commit
    examples = chosen(source.lesion_ids)
    rows: dict[str, list[Picture]] = {f"step {step}": [] for step in STEPS}
    for row in examples.itertuples():
        word = rating(row.attribute).words[row.step].split(" (")[0].lower()
        picture = tile(source.crop(row.lesion_id), f"{row.attribute}: {word}")
        rows[f"step {row.step}"].append(picture)
    with replacing(folder / "real.png") as temporary:
        temporary.write_bytes(png(sheet(rows, limits=(-1350, 150), size=1.6)))
    data = {"name": "LIDC-IDRI slices", "tier": "real", "checksum": source.checksum}
    head = {"notebook": None, "set": "paper", "parameters": {"seed": SEED}}
    kept = ["attribute", "step", "lesion_id", "n_readers", "n_step"]
    told = {"data": [data], "results": examples[kept].to_dict("records")}
    write_json(folder / "real.json", head | origin | told)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE, Slices())
