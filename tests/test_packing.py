"""Packed batches give what the nodules give one at a time."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lesionlab.packing import segment_softmax, segment_sum

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=8)


def packed(lengths: list[int], seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.randn(sum(lengths), *shape, generator=torch.Generator().manual_seed(seed))
    return values, torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


@given(lengths, st.integers(0, 999))
def test_a_packed_batch_equals_one_nodule_at_a_time(lengths: list[int], seed: int) -> None:
    values, nodule = packed(lengths, seed, 3)
    single = torch.stack([part.sum(0) for part in torch.split(values, lengths)])
    torch.testing.assert_close(segment_sum(values, nodule, len(lengths)), single)
    scores = values[:, 0]
    single = torch.cat([part.softmax(0) for part in torch.split(scores, lengths)])
    torch.testing.assert_close(segment_softmax(scores, nodule, len(lengths)), single)


@given(lengths, st.integers(0, 999))
def test_gradients_are_those_of_one_at_a_time(lengths: list[int], seed: int) -> None:
    scores, nodule = packed(lengths, seed)
    weight, _ = packed(lengths, seed + 1)
    scores.requires_grad_()
    together = segment_softmax(scores, nodule, len(lengths))
    alone = torch.cat([part.softmax(0) for part in torch.split(scores, lengths)])
    got, expected = (torch.autograd.grad((way * weight).sum(), scores) for way in (together, alone))
    torch.testing.assert_close(got, expected)


def test_by_hand() -> None:
    nodule = torch.tensor([0, 0, 2])
    assert segment_sum(torch.tensor([1.0, 2.0, 5.0]), nodule, 3).tolist() == [3, 0, 5]
    weights = segment_softmax(torch.log(torch.tensor([1.0, 3.0, 9.0])), nodule, 3)
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.75, 1.0]))
    large = segment_softmax(torch.tensor([1e4, 1e4, -1e4]), nodule, 3)  # and no overflow
    torch.testing.assert_close(large, torch.tensor([0.5, 0.5, 1.0]))
