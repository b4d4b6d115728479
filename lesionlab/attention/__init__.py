"""Where a model looks, and whether that is true.

    from lesionlab import attention

    found = attention.activation_map(network, samples.images, "hesam", target=1)
    found.maps, found.high_level_share        # (lesion, y, x), and what no map can show
    attention.region_shares(found.maps[0], masks, spacing)["margin"]

- `maps`: CAM, Grad-CAM, SAM, HESAM, HE-CAM and HE-Grad-CAM in one call, all heads.
- `regions`: the share of a map in, on and around the readers' outlines, against a uniform map's.
- `faithfulness`: deletion and insertion curves.
- `sanity`: random weights must change a map.
"""

from lesionlab.attention._models import Split as Split
from lesionlab.attention.faithfulness import deletion_curve as deletion_curve
from lesionlab.attention.faithfulness import insertion_curve as insertion_curve
from lesionlab.attention.maps import METHODS as METHODS
from lesionlab.attention.maps import ActivationMaps as ActivationMaps
from lesionlab.attention.maps import activation_map as activation_map
from lesionlab.attention.maps import activation_maps as activation_maps
from lesionlab.attention.regions import outline_distance as outline_distance
from lesionlab.attention.regions import region_shares as region_shares
from lesionlab.attention.sanity import randomisation_test as randomisation_test
from lesionlab.attention.sanity import similarity as similarity
