import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.training import runtime
from otcxr_sk.training.runtime import (
    choose_device,
    choose_precision,
    load_batches,
    private_randomness,
    uniform,
)

CPU = torch.device("cpu")


class Numbered:
    """Image i is filled with the number i."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def read(self, indices, size):
        return np.broadcast_to(
            np.asarray(indices, np.float32)[:, None, None, None], (len(indices), 1, size, size)
        ).copy()


def test_a_device_is_found_by_its_name():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:x"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=f"device='{name}' cannot be used on this machine"):
        choose_device(name)


@pytest.mark.parametrize(
    ("precision", "fast", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("fp16", True, torch.float16),
        ("float32", True, torch.float32),
    ],
)
def test_auto_takes_bfloat16_only_where_it_is_fast(monkeypatch, precision, fast, dtype):
    monkeypatch.setattr(runtime, "_has_fast_bf16", lambda device: fast)
    assert choose_precision(precision, CPU) == dtype


def test_this_processor_is_asked_whether_it_has_bfloat16():
    assert choose_precision("auto", CPU) in {torch.bfloat16, torch.float32}
    assert choose_precision("auto", torch.device("mps")) == torch.float32


@pytest.mark.usefixtures("generators_untouched")
def test_private_randomness_is_seeded_and_leaves_no_trace():
    draws = []
    for seed in (1, 1, 2):
        with private_randomness(seed, CPU):
            draws.append(torch.rand(5))
    assert draws[0].equal(draws[1])
    assert not draws[0].equal(draws[2])


@pytest.mark.usefixtures("generators_untouched")
def test_private_randomness_is_undone_by_an_error():
    with pytest.raises(RuntimeError), private_randomness(0, CPU):
        torch.rand(1) @ torch.rand(2)


@pytest.mark.usefixtures("generators_untouched")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order_whatever_the_number_of_workers(num_workers):
    batches = [np.array([3, 1]), np.array([0]), np.array([2, 4, 5])]
    images = list(load_batches(Numbered(6), batches, 4, num_workers))
    assert [batch[:, 0, 0, 0].tolist() for batch in images] == [[3, 1], [0], [2, 4, 5]]
    assert [batch.shape for batch in images] == [(2, 1, 4, 4), (1, 1, 4, 4), (3, 1, 4, 4)]
    assert {batch.dtype for batch in images} == {torch.float32}


def test_images_are_read_only_when_their_turn_comes():
    class Counted(Numbered):
        reads = 0

        def read(self, indices, size):
            self.reads += 1
            return super().read(indices, size)

    source = Counted(100)
    images = load_batches(source, np.split(np.arange(100), 50), 2, 0)
    next(images)
    assert source.reads == 1


@given(
    key=st.tuples(st.integers(0, 2**63), st.integers(0, 2**63)),
    ends=st.lists(st.integers(0, 50), min_size=2, max_size=6),
    width=st.integers(1, 50),
)
def test_a_row_of_random_numbers_is_the_same_whatever_is_drawn_beside_it(key, ends, width):
    ends = sorted(ends)
    whole = uniform(key, ends[0], ends[-1], width)
    parts = [uniform(key, *part, width) for part in itertools.pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.shape == (ends[-1] - ends[0], width)
    assert whole.dtype == np.float32


def test_random_numbers_are_uniform_and_no_two_rows_or_keys_share_them():
    drawn = [uniform(key, 0, 2000, 42) for key in [(0, 0), (1, 0), (0, 1)]]
    for numbers in drawn:
        assert scipy.stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(numbers.T) - np.eye(42)).max() < 0.12
        assert 0 <= numbers.min() < numbers.max() < 1
    # Chance repeats few of 252,000 numbers of 24 bits.
    assert len(np.unique(drawn)) > 0.99 * 3 * 2000 * 42
