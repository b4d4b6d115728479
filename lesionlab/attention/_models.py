"""A model in two, what makes the feature map and what comes after it; and its scores by head.

The first part runs once and without a graph; gradients exist in the second part only.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

Name = int | str
HeadChoice = Name | Sequence[Name] | None
Target = int | torch.Tensor | None
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

    Attributes:
        features: (row, channel, …) the feature map, a leaf of the graph.
        output: What the model said; its graph begins at `features`, if it has one.
        again: The output for other feature maps, with a graph where gradients are enabled; the
            second argument says whether the high-level features count.
        split: Whether the model is a `Split`, so that `again` runs the head only.
        alone: Whether `again` takes the feature maps of the first lesions alone.
        high_level: Whether it hands high-level features to its head.
    """

    features: torch.Tensor
    output: Any
    again: Callable[[torch.Tensor, bool], Any]
    split: bool = False
    alone: bool = False
    high_level: bool = False


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and random state are as before when it ends.

    Outside of the main thread the random state, which is everybody's, is left alone.
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
    bare = isinstance(trunk, torch.Tensor)
    features = _feature_map("trunk(images)", trunk if bare else getattr(trunk, "features", None))
    high_level = None if bare else getattr(trunk, "high_level", None)

    def again(features: torch.Tensor, with_high_level: bool) -> Any:
        if bare:
            return model.head(features, *inputs)
        changes = {"features": features}
        if high_level is not None:
            changes["high_level"] = high_level if with_high_level else torch.zeros_like(high_level)
        return model.head(_first(dataclasses.replace(trunk, **changes), len(features)), *inputs)

    leaf = features.detach()
    has = high_level is not None
    return Seen(leaf, again(leaf, True), again, split=True, alone=not inputs, high_level=has)


def _first(trunk: Any, n: int) -> Any:
    """What the trunk says of the first `n` lesions."""

    def cut(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(cut, value))
        return value[:n] if isinstance(value, torch.Tensor) else value

    fields = dataclasses.fields(trunk)
    return dataclasses.replace(trunk, **{f.name: cut(getattr(trunk, f.name)) for f in fields})


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

    def run(replace: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        def hook(_: nn.Module, __: Any, found: Any) -> torch.Tensor:
            return replace(_feature_map("layer", found))

        handle = modules[layer].register_forward_hook(hook)
        try:
            with torch.no_grad():
                return model(images, *inputs)
        finally:
            handle.remove()

    leaves: list[torch.Tensor] = []

    def cut(found: torch.Tensor) -> torch.Tensor:
        # what runs from here on has a graph, which begins at the leaf
        torch.set_grad_enabled(True)
        leaves.append(found.detach().requires_grad_())
        return leaves[-1].clone()  # the next layer may work in place

    output = run(cut)
    if len(leaves) != 1:
        raise ValueError(
            f"layer={layer!r}: expected a layer that runs once in a forward pass, it ran "
            f"{len(leaves)} times"
        )

    def again(features: torch.Tensor, _: bool) -> Any:
        enabled = torch.is_grad_enabled()

        def swap(found: torch.Tensor) -> torch.Tensor:
            torch.set_grad_enabled(enabled)
            return features.clone()

        return run(swap)

    return Seen(leaves[0], output, again)


def _feature_map(what: str, found: Any) -> torch.Tensor:
    if not isinstance(found, torch.Tensor) or found.ndim not in (4, 5):
        got = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found)
        raise ValueError(
            f"{what}: expected a feature map, (row, channel, y, x) or (row, channel, z, y, x), "
            f"got {got}"
        )
    return found


@dataclass(frozen=True, eq=False)
class Chosen:
    """Scores that maps are about.

    Attributes:
        scores: (lesion, column), all that the model gives.
        columns: (head, lesion) int64, which of them.
        heads: The names of the heads.
        single: Whether one head was asked for by name, so that maps have no axis for heads.
    """

    scores: torch.Tensor
    columns: torch.Tensor
    heads: tuple[Name, ...]
    single: bool

    @property
    def values(self) -> torch.Tensor:
        """(head, lesion) the chosen scores."""
        return self.scores.gather(1, self.columns.T).T


def choose(output: Any, select: Select | None, head: HeadChoice, target: Target) -> Chosen:
    """Find heads and their classes in a model's output; arguments as in `activation_map`."""
    parts = _heads(output if select is None else select(output), target)
    names = list(parts)
    single = isinstance(head, int | str)
    wanted: list[Name] = names if head is None else [head] if single else list(head)  # type: ignore[arg-type, list-item]
    numbered = all(isinstance(name, int) for name in names)
    has = f"heads 0 to {len(names) - 1}" if numbered else "heads " + ", ".join(map(str, names))
    widths = [parts[name].shape[1] for name in names]
    first = {name: sum(widths[:i]) for i, name in enumerate(names)}
    heads, columns = [], []
    for asked in wanted:
        by_number = isinstance(asked, int) and asked not in parts and 0 <= asked < len(names)
        name = names[int(asked)] if by_number else asked
        if name not in parts:
            raise ValueError(f"head={asked!r}: the model has {has}")
        heads.append(name)
        columns.append(first[name] + _classes(target, name, parts[name]))
    if not heads:
        raise ValueError(f"head={head!r}: expected one or more of {has}")
    scores = torch.cat(list(parts.values()), dim=1)
    return Chosen(scores, torch.stack(columns).to(scores.device), tuple(heads), single=single)


def _heads(output: Any, target: Target) -> dict[Name, torch.Tensor]:
    """By name of head, (lesion, class); see `activation_map` for what is taken for what."""
    if isinstance(output, torch.Tensor):
        if output.ndim == 1:
            return {0: output[:, None]}
        if output.ndim == 2 and output.shape[1]:
            if target is not None:
                return {0: output}
            return {i: output[:, i : i + 1] for i in range(output.shape[1])}
        if output.ndim == 3 and 0 not in output.shape[1:]:
            return dict(enumerate(output.unbind(1)))
    elif isinstance(output, Mapping) or (isinstance(output, list | tuple) and output):
        named = output.items() if isinstance(output, Mapping) else enumerate(output)
        parts = {name: part[:, None] if part.ndim == 1 else part for name, part in named}
        if parts and all(part.ndim == 2 and part.shape[1] for part in parts.values()):
            return parts
    else:
        for name in ("logits", "predictions"):
            if isinstance(scores := getattr(output, name, None), torch.Tensor):
                return _heads(scores, target)
    raise ValueError(
        "select: expected a function from the model's output to scores, (lesion, output), or "
        f"(lesion, class) by head; the output is {type(output).__name__}"
        + (f" of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else "")
    )


def _classes(target: Target, head: Name, scores: torch.Tensor) -> torch.Tensor:
    """(lesion,) which class of a head's (lesion, class) scores."""
    n, width = scores.shape
    if target is None and width > 1:
        raise ValueError(f"target=None: head {head!r} has {width} classes, say which")
    if isinstance(target, torch.Tensor):
        if target.shape != (n,) or target.dtype != torch.int64:
            raise ValueError(
                f"target: expected an int64 class for each of {n} lesions, "
                f"got shape {tuple(target.shape)}, {target.dtype}"
            )
        classes = target.cpu()
    else:
        classes = torch.full((n,), int(target or 0))
    if not 0 <= int(classes.min()) <= int(classes.max()) < width:
        raise ValueError(f"target={target!r}: head {head!r} has classes 0 to {width - 1}")
    return classes
