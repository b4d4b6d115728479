"""A model in two, what makes the feature map and what comes after it; and its scores by head.

The first part runs once and without a graph; gradients exist in the second part only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

Name = int | str
HeadChoice = Name | Sequence[Name] | None
Select = Callable[[Any], Any]


@runtime_checkable
class Split(Protocol):
    """A model that tells where its feature map is.

    `head(trunk(images), *inputs)` is what `model(images, *inputs)` gives. The trunk is the feature
    map, (row, channel, y, x) or (row, channel, z, y, x), or a dataclass with it in a field
    `features` and, for the methods with high-level features, their source in a field `high_level`.
    A row is a lesion, or a slice where a model takes packed slices. `head` may have the attributes
    `local`, a module of local weights (Lei 2020, eq. 6), and `map_weights`, (output, channel) γ.
    """

    def trunk(self, images: torch.Tensor) -> Any:
        """The part up to and with the feature map."""

    def head(self, trunk: Any, *inputs: Any) -> Any:
        """The part after it."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One pass of a model over images.

    `again` is the output for other feature maps, with a graph where gradients are enabled; its
    second argument says whether the high-level features count. It is None by `layer`: there the
    feature map is the leaf at which the graph of the output begins.
    """

    features: torch.Tensor  # (row, channel, …)
    output: Any
    again: Any  # Callable[[torch.Tensor, bool], Any] | None
    alone: bool = False  # whether `again` takes the feature maps of the first lesions alone
    high_level: bool = False  # whether the model hands high-level features to its head


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the modes are as before when it ends."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def look(model: nn.Module, images: torch.Tensor, layer: str | None, inputs: Sequence[Any]) -> Seen:
    """Run a model once, inside `untouched`; of images that it cannot take, say which."""
    if images.ndim not in (4, 5) or not images.numel():
        raise ValueError(
            "images: expected (lesion, channel, y, x) or (lesion, channel, z, y, x), not empty, "
            f"got shape {tuple(images.shape)}"
        )
    try:
        if layer is None and isinstance(model, Split):
            return _look_split(model, images, inputs)
        return _look_layer(model, images, layer, inputs)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch speaks of its own operands
        what = f"shape {tuple(images.shape)}, {images.dtype}"
        raise ValueError(f"images: the model cannot take {what}: {error}") from error


def _look_split(model: Split, images: torch.Tensor, inputs: Sequence[Any]) -> Seen:
    trunk = model.trunk(images)
    if isinstance(trunk, torch.Tensor):
        features = _feature_map("trunk(images)", trunk)
        output = model.head(features, *inputs)
        return Seen(features, output, lambda maps, _: model.head(maps, *inputs), alone=not inputs)
    features = _feature_map("trunk(images)", getattr(trunk, "features", None))
    high_level = getattr(trunk, "high_level", None)

    def again(features: torch.Tensor, with_high_level: bool) -> Any:
        changes = {"features": features}
        if high_level is not None and not with_high_level:
            changes["high_level"] = torch.zeros_like(high_level)
        return model.head(_first(dataclasses.replace(trunk, **changes), len(features)), *inputs)

    output = model.head(trunk, *inputs)
    return Seen(features, output, again, alone=not inputs, high_level=high_level is not None)


def _first(value: Any, n: int) -> Any:
    """Of a trunk, a tuple of tensors or a tensor: what is of the first `n` lesions."""
    if isinstance(value, torch.Tensor):
        return value[:n]
    if isinstance(value, tuple):
        return tuple(_first(part, n) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _first(getattr(value, f.name), n) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value


def _look_layer(
    model: nn.Module, images: torch.Tensor, layer: str | None, inputs: Sequence[Any]
) -> Seen:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if not layer or layer not in modules:
        last = [name for name, module in modules.items() if name and not [*module.children()]][-12:]
        raise ValueError(
            f"layer={layer!r}: name the layer of {type(model).__name__} whose output is the "
            f"feature map, such as {', '.join(last)}"
        )

    seen: list[torch.Tensor] = []

    def hook(_: nn.Module, __: Any, found: Any) -> torch.Tensor:
        seen.append(_feature_map("layer", found).detach().requires_grad_())
        torch.set_grad_enabled(True)  # for what runs from here on
        return seen[-1].clone()  # the next may work in place

    handle = modules[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            output = model(images, *inputs)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(
            f"layer={layer!r}: expected to run once in a pass, it ran {len(seen)} times"
        )
    return Seen(seen[0], output, None)


def _feature_map(what: str, found: Any) -> torch.Tensor:
    if not isinstance(found, torch.Tensor) or found.ndim not in (4, 5):
        got = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found)
        raise ValueError(
            f"{what}: expected a feature map, (row, channel, y, x) or (row, channel, z, y, x), "
            f"got {got}"
        )
    return found


class Chosen(NamedTuple):
    """Scores that maps are about."""

    scores: torch.Tensor  # (lesion, head)
    columns: list[int]  # where each of them stands among all scores of the model
    heads: tuple[Name, ...]
    single: bool  # whether one head was asked for by name: maps have no axis for heads


def choose(output: Any, select: Select | None, head: HeadChoice, target: int | None) -> Chosen:
    """Find heads and their class in a model's output; arguments as in `activation_map`."""
    parts = _heads(output if select is None else select(output), target)
    names = list(parts)
    single = isinstance(head, int | str)
    wanted: list[Any] = names if head is None else [head] if single else list(head)  # type: ignore[arg-type]
    if not wanted:
        raise ValueError(f"head={head!r}: expected one or more")
    firsts = dict(
        zip(names, accumulate((p.shape[1] for p in parts.values()), initial=0), strict=False)
    )
    heads: list[Name] = []
    columns = []
    for asked in wanted:
        by_number = isinstance(asked, int) and asked not in parts and 0 <= asked < len(names)
        name = names[asked] if by_number else asked
        if name not in parts:
            has = ", ".join(map(str, names))
            raise ValueError(f"head={asked!r}: the model has the heads {has}")
        width = parts[name].shape[1]
        if target is None and width > 1:
            raise ValueError(f"target=None: head {name!r} has {width} classes, say which")
        if not 0 <= (target or 0) < width:
            raise ValueError(f"target={target!r}: head {name!r} has classes 0 to {width - 1}")
        heads.append(name)
        columns.append(firsts[name] + (target or 0))
    scores = torch.cat(list(parts.values()), dim=1)[:, columns]
    return Chosen(scores, columns, tuple(heads), single)


def _heads(output: Any, target: int | None) -> dict[Name, torch.Tensor]:
    """By name of head, (lesion, class); see `activation_map` for what is taken for what."""
    if isinstance(output, torch.Tensor):
        if output.ndim == 1:
            return {0: output[:, None]}
        if output.ndim == 2 and output.shape[1]:
            return dict(enumerate([output] if target is not None else torch.split(output, 1, 1)))
        if output.ndim == 3 and 0 not in output.shape[1:]:
            return dict(enumerate(output.unbind(1)))
    elif isinstance(output, Mapping) or (isinstance(output, list | tuple) and output):
        named = output.items() if isinstance(output, Mapping) else enumerate(output)
        parts = {name: part[:, None] if part.ndim == 1 else part for name, part in named}
        if parts and all(part.ndim == 2 and part.shape[1] for part in parts.values()):
            return parts
    else:
        for name in ("logits", "predictions"):
            if isinstance(scores := getattr(output, name, None), torch.Tensor | Mapping):
                return _heads(scores, target)
    got = f"of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output)
    raise ValueError(
        "select: expected a function from the model's output to scores, (lesion, output), or "
        f"(lesion, class) by head; the output is {got}"
    )
