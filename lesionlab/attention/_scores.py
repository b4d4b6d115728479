"""Which number of a model's output a map is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lesionlab.attention._split import Forward, check_images, run_model, untouched

Name = int | str
HeadChoice = Name | Sequence[Name] | None
Target = int | torch.Tensor | None
Select = Callable[[Any], Any]


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
    """Find heads and their classes in a model's output; arguments as in `activation_map`.

    Raises:
        ValueError: The output holds no scores, or the head or class is not among them.
    """
    parts = _heads(output if select is None else select(output), target)
    names = list(parts)
    if head is None:
        wanted: list[Name] = names
    else:
        wanted = [head] if isinstance(head, int | str) else list(head)
    first, columns = {}, 0
    for name, part in parts.items():
        first[name] = columns
        columns += part.shape[1]
    n = len(next(iter(parts.values())))
    found = []
    for asked in wanted:
        by_number = isinstance(asked, int) and asked not in parts and 0 <= asked < len(names)
        name = names[int(asked)] if by_number else asked
        if name not in parts:
            raise ValueError(f"head={asked!r}: the model has {_some(names)}")
        found.append((name, first[name] + _classes(target, name, parts[name].shape[1], n)))
    if not found:
        raise ValueError(f"head={head!r}: expected one or more of {_some(names)}")
    one = next(iter(parts.values()))
    picked = torch.stack([column.to(one.device) for _, column in found])
    return Chosen(
        torch.cat(list(parts.values()), dim=1),
        picked,
        tuple(name for name, _ in found),
        single=isinstance(head, int | str),
    )


def scorer(
    model: nn.Module,
    *,
    head: Name = 0,
    target: Target = None,
    inputs: Sequence[Any] = (),
    forward: Forward | None = None,
    select: Select | None = None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from images to the one score of each lesion that a map is about.

    Evaluates without gradients, and leaves the model as it was. Arguments as in `activation_map`.

    Returns:
        A function from (lesion, channel, …) to (lesion,).
    """

    def score(images: torch.Tensor) -> torch.Tensor:
        with untouched(model):
            check_images(model, images)
            output = run_model(model, images, inputs, forward)
            return choose(output, select, head, target).values[0]

    return score


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


def _classes(target: Target, head: Name, width: int, n: int) -> torch.Tensor:
    """(lesion,) which class of a head with `width` of them."""
    if target is None:
        if width > 1:
            raise ValueError(f"target=None: head {head!r} has {width} classes, say which")
        target = 0
    if isinstance(target, torch.Tensor):
        if target.shape != (n,) or target.dtype != torch.int64:
            raise ValueError(
                f"target: expected an int64 class for each of {n} lesions, "
                f"got shape {tuple(target.shape)}, {target.dtype}"
            )
        classes = target.cpu()
    else:
        classes = torch.full((n,), int(target))
    if not 0 <= int(classes.min()) <= int(classes.max()) < width:
        raise ValueError(f"target={target!r}: head {head!r} has classes 0 to {width - 1}")
    return classes


def _some(names: list[Name]) -> str:
    if all(isinstance(name, int) for name in names):
        return f"heads 0 to {len(names) - 1}"
    return "heads " + ", ".join(map(str, names))
