"""A model in two: what makes the feature map, and what comes after it.

The first part runs once and without a graph; gradients exist in the second part only. A model
tells where its feature map is in one of three ways:

- it has the methods of `Split` (Lei 2020's networks do);
- it is one of Fu 2021's networks, whose convolutions are no calls that a hook could see;
- the caller names a layer, whose output is the feature map.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from lesionlab.papers.fu2021._layers import Backbone, _channels_last
from lesionlab.papers.fu2021._winograd import convolve_relu

Forward = Callable[..., Any]
"""Called with the model, the images and the further inputs; gives the model's output."""


@runtime_checkable
class Split(Protocol):
    """A model that tells where its feature map is.

    `head(trunk(images))` is what `model(images)` gives. The trunk is the feature map, (lesion,
    channel, y, x) or (lesion, channel, z, y, x), or a dataclass with it in a field `features` and,
    for the methods with high-level features, their source in a field `high_level`.
    """

    def trunk(self, images: torch.Tensor) -> Any:
        """The part up to and with the feature map."""

    def head(self, trunk: Any) -> Any:
        """The part after it."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One pass of a model over images.

    Attributes:
        features: (row, channel, …) the feature map, a leaf of the graph. A row is a lesion, or a
            slice where a model takes packed slices.
        output: What the model said; its graph begins at `features`, if it has one.
        again: The output for other feature maps, with a graph where gradients are enabled; the
            second argument says whether the high-level features count.
        split: Whether the model has `trunk` and `head`, so that `again` runs the head only.
        high_level: Whether it hands high-level features to its head.
    """

    features: torch.Tensor
    output: Any
    again: Callable[[torch.Tensor, bool], Any]
    split: bool
    high_level: bool


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and random state are as before when it ends.

    Outside of the main thread the random state is left alone: it is everybody's, and putting it
    back would take back what others have drawn meanwhile.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    main = threading.current_thread() is threading.main_thread()
    random = torch.random.fork_rng(devices=sorted(i or 0 for i in devices), enabled=main)
    with random, torch.no_grad():
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def look(
    model: nn.Module,
    images: torch.Tensor,
    *,
    layer: str | None = None,
    inputs: Sequence[Any] = (),
    forward: Forward | None = None,
) -> Seen:
    """Run a model once, inside `untouched`; arguments as in `activation_map`.

    Raises:
        ValueError: See `activation_map`.
    """
    check_images(model, images)
    if layer is None and isinstance(model, Split):
        if forward is not None or inputs:
            raise ValueError("inputs, forward: a model with `trunk` and `head` takes images only")
        return _look_split(model, images)
    module = _layer(model, layer)

    def run(replace: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        with _replaced(module, replace):
            return run_model(model, images, inputs, forward)

    leaves: list[torch.Tensor] = []

    def cut(found: torch.Tensor) -> torch.Tensor:
        # what runs from here on has a graph, which begins at the leaf
        torch.set_grad_enabled(True)
        leaves.append(found.detach().requires_grad_())
        return leaves[-1].clone()  # the next layer may work in place

    with torch.no_grad():
        output = run(cut)
    if len(leaves) != 1:
        raise ValueError(
            f"layer={layer!r}: expected a layer that runs once in a forward pass, it ran "
            f"{len(leaves)} times"
        )

    def again(features: torch.Tensor, high_level: bool) -> Any:
        def swap(found: torch.Tensor) -> torch.Tensor:
            torch.set_grad_enabled(enabled)
            return features.clone()

        enabled = torch.is_grad_enabled()
        with torch.no_grad():
            return run(swap)

    return Seen(leaves[0], output, again, split=False, high_level=False)


def _look_split(model: Split, images: torch.Tensor) -> Seen:
    with plain_errors(images), torch.no_grad():
        trunk = model.trunk(images)
    bare = isinstance(trunk, torch.Tensor)
    features = trunk if bare else getattr(trunk, "features", None)
    features = _check_features("trunk(images)", features)
    high_level = None if bare else getattr(trunk, "high_level", None)

    def again(features: torch.Tensor, with_high_level: bool) -> Any:
        if bare:
            return model.head(features)
        changes = {"features": features}
        if high_level is not None:
            changes["high_level"] = high_level if with_high_level else torch.zeros_like(high_level)
        return model.head(_first(dataclasses.replace(trunk, **changes), len(features)))

    leaf = features.detach()
    with plain_errors(images), torch.no_grad():
        output = again(leaf, True)
    return Seen(leaf, output, again, split=True, high_level=high_level is not None)


def _first(trunk: Any, n: int) -> Any:
    """What the trunk says of the first `n` lesions."""

    def cut(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(cut, value))
        return value[:n] if isinstance(value, torch.Tensor) else value

    fields = dataclasses.fields(trunk)
    return dataclasses.replace(trunk, **{f.name: cut(getattr(trunk, f.name)) for f in fields})


def run_model(
    model: nn.Module, images: torch.Tensor, inputs: Sequence[Any], forward: Forward | None
) -> Any:
    """The model's output.

    Raises:
        ValueError: The model cannot take the images.
    """
    with plain_errors(images):
        if forward is not None:
            return forward(model, images, *inputs)
        return model(images, *inputs)


def check_images(model: nn.Module, images: torch.Tensor) -> None:
    """Refuse what no model here takes, in words.

    Raises:
        ValueError: The images have no channels, rows or space, or not the model's type or device.
    """
    if not isinstance(images, torch.Tensor) or images.ndim not in (4, 5) or not images.numel():
        shape = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(
            "images: expected (lesion, channel, y, x) or (lesion, channel, z, y, x), not empty, "
            f"got {shape}"
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is not None and (images.dtype, images.device) != (like.dtype, like.device):
        raise ValueError(
            f"images: expected {like.dtype} on {like.device} as the model has, "
            f"got {images.dtype} on {images.device}"
        )


@contextmanager
def plain_errors(images: torch.Tensor) -> Iterator[None]:
    """Say which images a model could not take; torch speaks of its own operands."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"images: the model cannot take shape {tuple(images.shape)}: {first}"
        ) from error


def _layer(model: nn.Module, name: str | None) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name is None:
        backbones = [module for module in modules.values() if isinstance(module, Backbone)]
        if len(backbones) == 1:
            return backbones[0]
        raise ValueError(
            f"layer=None: {type(model).__name__} does not tell where its feature map is; name the "
            f"layer whose output it is, one of {_few(modules)}"
        )
    if not name or name not in modules:
        raise ValueError(
            f"layer={name!r}: {type(model).__name__} has no such layer, it has {_few(modules)}"
        )
    return modules[name]


def _few(modules: dict[str, nn.Module]) -> str:
    """The names of the layers that do something, the last ones."""
    names = [name for name, module in modules.items() if name and not [*module.children()]]
    return ("…, " if len(names) > 12 else "") + ", ".join(names[-12:])


@contextmanager
def _replaced(module: nn.Module, replace: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Hand on `replace(feature map)` in place of a layer's feature map, while this lasts."""
    with ExitStack() as undo:
        if isinstance(module, Backbone):
            # it ends in the mean over the image: do as it does, but for the feature map
            def forward(images: torch.Tensor) -> torch.Tensor:
                return replace(_backbone_maps(module, images)).flatten(2).mean(2)

            object.__setattr__(module, "forward", forward)
            undo.callback(object.__delattr__, module, "forward")
        else:

            def hook(_: nn.Module, __: Any, found: Any) -> torch.Tensor:
                return replace(_check_features("layer", found))

            undo.callback(module.register_forward_hook(hook).remove)
        yield


def _backbone_maps(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """Fu 2021's feature map, (row, 256, y, x) or (row, 256, z, y, x), before the mean over it."""
    features = images
    for i, block in enumerate(backbone.blocks):
        features = backbone.pool(_channels_last(features)) if i else _channels_last(features)
        for layer in cast(nn.ModuleList, block):
            if isinstance(layer, nn.Conv2d):
                features = convolve_relu(features, layer)
            else:
                features = layer(features).relu_()
    return features


def _check_features(what: str, found: Any) -> torch.Tensor:
    if not isinstance(found, torch.Tensor) or found.ndim not in (4, 5):
        got = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found)
        raise ValueError(
            f"{what}: expected a feature map, (row, channel, y, x) or (row, channel, z, y, x), "
            f"got {got}"
        )
    return found
