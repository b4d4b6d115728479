"""Where a model looks, and whether that is true.

    from lesionlab import attention

    found = attention.activation_map(network, samples.images, "hesam", target=1)
    found.maps, found.high_level_share        # (lesion, y, x), and what no map can show
    attention.region_shares(found.maps[0], masks, spacing)["margin"]

- `maps`: CAM, Grad-CAM, SAM, HESAM, HE-CAM and HE-Grad-CAM of any model in one call, all heads.
- `regions`: the share of a map in, on and around the readers' outlines, against a uniform map's.
- `faithfulness`: deletion and insertion curves.
- `sanity`: random weights must change a map.
"""

from lesionlab.attention._models import Split
from lesionlab.attention.faithfulness import Curve, deletion_curve, insertion_curve
from lesionlab.attention.maps import (
    METHODS,
    ActivationMaps,
    activation_map,
    activation_maps,
    normalised,
)
from lesionlab.attention.regions import outline_distance, region_shares, region_table
from lesionlab.attention.sanity import Randomisation, randomisation_test, similarity

__all__ = [
    "METHODS",
    "ActivationMaps",
    "Curve",
    "Randomisation",
    "Split",
    "activation_map",
    "activation_maps",
    "deletion_curve",
    "insertion_curve",
    "normalised",
    "outline_distance",
    "randomisation_test",
    "region_shares",
    "region_table",
    "similarity",
]
