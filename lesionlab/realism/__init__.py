"""How far rendered crops are from real ones of the same lesions, in numbers.

Two lists of crops go in, phantoms and real slices; `pair` cuts both to the slices and pixels that
they share, so that place and size give nothing away. Then four measures, each a table: histograms
of HU in the lesion and around it, width of its edge, power of the noise, and how well a classifier
tells the two lists apart. An area under the curve of 0.5 would mean that it cannot.

`measure(Slices(), seed=0)` does all of that for the public slices, lesion by lesion, and `read`
brings back what was kept of it in `book/results/phantoms/realism.json`.
"""

from lesionlab.realism._compare import (
    Realism,
    classifier_auc,
    measure,
    pair,
    read,
    through_eight_bits,
    write,
)
from lesionlab.realism._measures import (
    FEATURES,
    edge_widths,
    features,
    histogram_distances,
    histograms,
    noise_power,
)

__all__ = [
    "FEATURES",
    "Realism",
    "classifier_auc",
    "edge_widths",
    "features",
    "histogram_distances",
    "histograms",
    "measure",
    "noise_power",
    "pair",
    "read",
    "through_eight_bits",
    "write",
]
