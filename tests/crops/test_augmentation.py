import pytest
import torch

from lesionlab.crops.augmentation import choose, happens, move, on_cpu, reversed_rows

N = 64
BATCH = torch.randn(N, 2, 5, 8, 8, generator=torch.Generator().manual_seed(1))


def drawn(seed=0):
    g = torch.Generator().manual_seed(seed)
    flips = {axis: happens(N, 0.5, g) for axis in (-1, -2, -3)}
    return flips, choose(N, 4, g), torch.randperm(N, generator=g)


def test_as_torch_one_by_one():
    flips, turns, rows = drawn()
    moved = move(BATCH, flips=flips, turns=turns, rows=rows)
    for i in range(N):
        one = BATCH[rows[i]].flip([axis for axis, f in flips.items() if f[i]])
        assert torch.equal(moved[i], torch.rot90(one, int(turns[i]), (-2, -1)))
    batch = BATCH.clone().requires_grad_()
    move(batch, flips=flips, turns=turns, rows=rows).sum().backward()
    assert (batch.grad == 1).all()
    assert len({(int(t), *(bool(f[i]) for f in flips.values())) for i, t in enumerate(turns)}) > 25


def test_turns_add_up_and_are_undone():
    _, a, _ = drawn(0)
    _, b, _ = drawn(1)
    assert torch.equal(move(move(BATCH, turns=a), turns=b), move(BATCH, turns=a + b))
    assert torch.equal(move(move(BATCH, turns=a), turns=-a), BATCH)


def test_turn_by_hand():
    corner = torch.tensor([[[1, 2], [3, 4]]])
    assert move(corner, turns=torch.tensor([1])).tolist() == [[[2, 4], [1, 3]]]
    # first the flip, then the turn
    both = move(corner, flips={-1: torch.tensor([True])}, turns=torch.tensor([1]))
    assert both.tolist() == [[[1, 3], [2, 4]]]


def test_reversing_slices_twice_changes_nothing():
    nodule = torch.tensor([0, 0, 0, 1, 2, 2])
    where = torch.tensor([True, True, False])
    rows = reversed_rows(where, nodule)
    assert rows.tolist() == [2, 1, 0, 3, 4, 5]
    assert rows[rows].tolist() == list(range(6))
    assert reversed_rows(~where, nodule).tolist() == [0, 1, 2, 3, 5, 4]


def test_draws_are_as_likely_as_told_and_refused_where_they_do_not_fit():
    g = torch.Generator().manual_seed(0)
    assert happens(20_000, 0.3, g).float().mean() == pytest.approx(0.3, abs=0.015)
    counts = torch.bincount(choose(20_000, 4, g), minlength=4) / 20_000
    assert counts.tolist() == pytest.approx([0.25] * 4, abs=0.015)
    with pytest.raises(ValueError, match=r"p=1\.2: expected a probability"):
        happens(3, 1.2, g)
    with pytest.raises(ValueError, match=r"turns: drawn for \(3,\) samples, there are 64"):
        move(BATCH, turns=torch.zeros(3))
    with pytest.raises(ValueError, match=r"flip -1: drawn for \(65,\)"):
        move(BATCH, flips={-1: torch.zeros(65)})
    with pytest.raises(ValueError, match=r"axes \(3, 4\): expected negative"):
        move(BATCH, axes=(3, 4))
    with pytest.raises(ValueError, match="never descend"):
        reversed_rows(torch.ones(2), torch.tensor([1, 0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_gpu():
    flips, turns, rows = drawn()
    there = move(BATCH.cuda(), flips=flips, turns=turns, rows=rows)
    assert torch.equal(there.cpu(), move(BATCH, flips=flips, turns=turns, rows=rows))
    with pytest.raises(ValueError, match="on the CPU"):
        on_cpu(torch.Generator("cuda"))
