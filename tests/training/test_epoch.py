import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import SIZE, Images, copy_of, make_draw, make_model, make_objective

from otcxr_sk.method import Views
from otcxr_sk.training import evaluate
from otcxr_sk.training._epoch import EpochPlan, uniform

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
        with pytest.raises(ValueError, match=f"cannot be divided among {count} processes"):
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


def evaluated(model, source, batch_size=8, precision="float32"):
    return evaluate(
        model,
        source,
        make_draw(),
        make_objective(),
        size=SIZE,
        batch_size=batch_size,
        precision=precision,
    )


def test_views_depend_on_seed_epoch_and_place():
    batch = torch.from_numpy(Images(4).images)
    draws = [
        make_draw(seed)(batch, epoch, start)[1]
        for seed, epoch, start in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 4)]
    ]
    assert draws[0].equal(make_draw()(batch, 0, 0)[1])
    assert all(not draws[0].equal(other) for other in draws[1:])


def test_an_image_gets_the_same_views_in_any_batch():
    images = torch.from_numpy(Images(8).images)
    views, affine = make_draw()(images, 2, 5)
    for row in range(8):
        alone, map_alone = make_draw()(images[row : row + 1], 2, 5 + row)
        assert map_alone.equal(affine[row::8])
        torch.testing.assert_close(alone, views[row::8])


def test_images_are_standardized_before_views_are_drawn():
    plain = Views(crop_scale=(1, 1), aspect=1, contrast=0, brightness=0, blur=1, erase=0)
    batch = torch.from_numpy(Images(4).images)
    views, _ = make_draw(views=plain, mean=0.5, std=2.0)(batch, 0, 0)
    torch.testing.assert_close(views[:4], (batch - 0.5) / 2, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("generators_untouched")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_evaluation_repeats_itself_and_changes_nothing(precision):
    model, source = make_model(dropout=0.5), Images(20)
    before = copy_of(model)
    first, again = (evaluated(model, source, precision=precision) for _ in range(2))
    assert first == again
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    in_float32 = evaluated(model, source)
    assert first["loss"] == pytest.approx(in_float32["loss"], rel=0.05)


def test_evaluation_weighs_all_images_equally():
    model, source = make_model().eval(), Images(11)
    expected = 0.0
    for indices in (range(6), range(6, 11)):
        with torch.inference_mode():
            batch = torch.from_numpy(source.images[indices])
            terms, _ = model(*make_draw()(batch, 0, indices[0]))
        expected += terms["transport"].item() * len(indices) / 11
    found = evaluated(model, source, batch_size=6)
    assert found["transport"] == pytest.approx(expected, rel=1e-5)


@given(
    key=st.tuples(st.integers(0, 2**63), st.integers(0, 2**63)),
    ends=st.lists(st.integers(0, 50), min_size=2, max_size=6),
    width=st.integers(1, 50),
)
def test_a_row_of_random_numbers_does_not_depend_on_the_other_rows(key, ends, width):
    ends = sorted(ends)
    whole = uniform(key, ends[0], ends[-1], width)
    parts = [uniform(key, *part, width) for part in itertools.pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.shape == (ends[-1] - ends[0], width)
    assert whole.dtype == np.float32


def test_random_numbers_are_uniform_and_differ_between_rows_and_keys():
    drawn = [uniform(key, 0, 2000, 42) for key in [(0, 0), (1, 0), (0, 1)]]
    for numbers in drawn:
        assert scipy.stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(numbers.T) - np.eye(42)).max() < 0.12
        assert 0 <= numbers.min() < numbers.max() < 1
    # Few of 252,000 numbers of 24 bits repeat by chance.
    assert len(np.unique(drawn)) > 0.99 * 3 * 2000 * 42
