"""Deletion and insertion curves of models whose curves can be written down."""

from __future__ import annotations

import math

import pytest
import torch

from lesionlab.attention import deletion_curve, insertion_curve

WEIGHTS = torch.tensor([[4.0, 1.0], [0.0, 3.0]])
"""What a toy model's score is made of: the sum of the pixels by these."""
IMAGES = torch.ones(1, 1, 2, 2)


def score(images: torch.Tensor) -> torch.Tensor:
    return (images * WEIGHTS).sum((1, 2, 3))


def test_a_perfect_map_by_hand() -> None:
    """Taking away 4, 3, 1, 0 of 8 leaves 4, 1, 0, 0."""
    perfect = WEIGHTS[None]
    deletion = deletion_curve(score, IMAGES, perfect, steps=4)
    assert deletion.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert deletion.scores[:, 0].tolist() == [8, 4, 1, 0, 0]
    assert float(deletion.auc) == pytest.approx((8 / 2 + 4 + 1 + 0 + 0) / 4)
    insertion = insertion_curve(score, IMAGES, perfect, steps=4)
    assert insertion.scores[:, 0].tolist() == [0, 4, 7, 8, 8]
    assert float(insertion.auc) == pytest.approx((0 + 4 + 7 + 8 + 8 / 2) / 4)
    worst = deletion_curve(score, IMAGES, -perfect, steps=4)
    assert worst.scores[:, 0].tolist() == [8, 8, 7, 4, 0]
    halves = deletion_curve(score, IMAGES, perfect, steps=2)
    assert halves.scores[:, 0].tolist() == [8, 1, 0]
    for fill in (0.5, torch.full_like(IMAGES, 0.5)):
        grey = deletion_curve(score, IMAGES, perfect, steps=4, fill=fill)
        assert grey.scores[:, 0].tolist() == [8, 6, 4.5, 4, 4]


def test_a_fill_has_the_precision_of_the_images() -> None:
    filled = deletion_curve(score, IMAGES.double(), None, fill=0.1, steps=1).scores[-1]
    assert float(filled) == pytest.approx(0.8, rel=1e-12)


def test_a_constant_map_is_a_random_order_and_not_a_corner() -> None:
    images = torch.ones(30, 1, 8, 8)
    corner = torch.zeros(8, 8)
    corner[:2] = 1

    def upper(images: torch.Tensor) -> torch.Tensor:
        return (images * corner).sum((1, 2, 3))

    flat = deletion_curve(upper, images, torch.ones(30, 8, 8))
    assert torch.equal(flat.scores, deletion_curve(upper, images, None).scores)
    assert float(flat.auc.mean()) == pytest.approx(16 / 2, rel=0.1)
    assert not torch.equal(
        flat.scores, deletion_curve(upper, images, torch.ones(30, 8, 8), seed=1).scores
    )


def test_batches_and_three_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, 4, 5, 6, generator=generator)
    maps = torch.randn(3, 4, 5, 6, generator=generator)

    def nonlinear(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).tanh().square().sum(1)

    before = images.clone(), maps.clone()
    whole = deletion_curve(nonlinear, images, maps, steps=7)
    assert whole.scores.shape == (8, 3)
    torch.testing.assert_close(whole.scores[0], nonlinear(images))
    assert not whole.scores[-1].any()
    for i in range(3):
        one = deletion_curve(nonlinear, images[i : i + 1], maps[i : i + 1], steps=7)
        assert torch.allclose(one.scores[:, 0], whole.scores[:, i])
    back = insertion_curve(nonlinear, images, -maps, steps=7)
    # what is deleted first is inserted last
    assert torch.allclose(back.scores, whole.scores.flip(0), atol=1e-5)
    assert torch.equal(images, before[0])
    assert torch.equal(maps, before[1])


@pytest.mark.parametrize(("change", "message"), [
    ({"maps": torch.ones(1, 2, 3)}, r"maps: expected finite ones of shape \(1, 2, 2\)"),
    ({"maps": torch.full((1, 2, 2), math.nan)}, "finite"),
    ({"images": IMAGES[0]}, r"images, fill: .* got \(1, 2, 2\)"),
    ({"fill": torch.ones(2, 2)}, r"images, fill: .* got \(1, 1, 2, 2\) and \(2, 2\)"),
    ({"steps": 5}, "steps=5"),
    ({"score": lambda x: x}, "one number a lesion"),
])  # fmt: skip
def test_bad_input(change: dict[str, object], message: str) -> None:
    options = {"score": score, "images": IMAGES, "maps": WEIGHTS[None], "steps": 4} | change
    with pytest.raises(ValueError, match=message):
        insertion_curve(**options)
