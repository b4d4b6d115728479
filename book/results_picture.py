"""Draw the picture of the README from the kept results: `python book/results_picture.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from lesionlab import published
from lesionlab._files import replacing
from lesionlab.chapters import shipped
from lesionlab.figures.models import scores
from lesionlab.papers.fu2021 import ATTRIBUTES
from lesionlab.training import outcomes

PLACE = Path(__file__).parent / "_static" / "results.png"


def draw(path: Path) -> None:
    """Write the errors of Fu 2021's full model on real slices, beside what the paper prints."""
    run = outcomes.kept(shipped("book", "results", "fu2021"))["full"]
    printed = published.table("fu2021", 1).set_index("method").loc["SAM+CAAM+ASCMM", ATTRIBUTES]
    marks = {"the paper, its own split": printed.astype(float).to_dict()}
    figure = scores(run.scores, marks=marks, tier="slices")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", facecolor="white")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE)
