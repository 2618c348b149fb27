import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.training.plan import EpochPlan, WarmupCosine

plans = given(n=st.integers(2, 300), size=st.integers(2, 70), accumulate=st.integers(1, 9))


@plans
def test_every_image_is_in_one_batch_of_nearly_equal_sizes(n, size, accumulate):
    plan = EpochPlan(n, size, accumulate)
    order = np.random.default_rng(0).permutation(n)
    batches = plan.batches(order)
    np.testing.assert_array_equal(np.concatenate(batches), order)
    sizes = [len(batch) for batch in batches]
    assert min(sizes) >= 2
    assert max(sizes) <= max(size, 3)
    assert max(sizes) - min(sizes) <= 1
    for start, batch in zip(plan.starts, batches, strict=True):
        np.testing.assert_array_equal(order[start : start + len(batch)], batch)


@plans
def test_batches_make_steps_whose_shares_add_up_to_one(n, size, accumulate):
    plan = EpochPlan(n, size, accumulate)
    batches = len(plan.starts)
    assert plan.steps == math.ceil(batches / accumulate)
    ends = [index for index in range(batches) if plan.ends_step(index)]
    assert len(ends) == plan.steps
    assert ends[-1] == batches - 1
    first = [plan.first_batch(step) for step in range(plan.steps)]
    assert first == [0, *(end + 1 for end in ends[:-1])]
    for start, end in zip(first, ends, strict=True):
        assert 1 <= end + 1 - start <= accumulate
        total = sum(plan.share(index) for index in range(start, end + 1))
        assert total == pytest.approx(1)


@given(n=st.integers(2, 300), size=st.integers(2, 70), count=st.integers(1, 9))
def test_processes_share_every_batch_without_overlap_in_order(n, size, count):
    whole = EpochPlan(n, size, 2)
    order = np.random.default_rng(0).permutation(n)
    if min(whole.sizes) < count:
        with pytest.raises(ValueError, match=f"cannot be shared by {count} processes"):
            EpochPlan(n, size, 2, 0, count)
        return
    plans = [EpochPlan(n, size, 2, rank, count) for rank in range(count)]
    parts = zip(*(plan.batches(order) for plan in plans), strict=True)
    for index, (batch, shared) in enumerate(zip(whole.batches(order), parts, strict=True)):
        np.testing.assert_array_equal(np.concatenate(shared), batch)
        sizes = [len(part) for part in shared]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == whole.sizes[index]
        for plan, part in zip(plans, shared, strict=True):
            assert plan.parts[index] == sizes
            np.testing.assert_array_equal(order[plan.starts[index] :][: len(part)], part)
            assert plan.share(index) == whole.share(index)
            assert plan.ends_step(index) == whole.ends_step(index)


@plans
def test_a_step_of_one_batch_weighs_it_exactly_one(n, size, accumulate):
    plan = EpochPlan(n, size, 1)
    assert {plan.share(index) for index in range(plan.steps)} == {1.0}


@given(steps=st.integers(2, 500))
def test_the_rate_rises_once_and_falls_to_zero(steps):
    rates = np.array([WarmupCosine(steps).factor(step) for step in range(steps + 1)])
    peak = int(rates.argmax())
    assert rates[peak] == 1
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak + 1 :]) < 0).all()
    assert rates[-1] == pytest.approx(0, abs=1e-12)
