import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch
from small_runs import Images, make_model, make_trainer

from otcxr_sk.method import model as model_module
from otcxr_sk.method.objective import Objective
from otcxr_sk.method.transport import transport_plan
from otcxr_sk.method.views import ViewSampler
from otcxr_sk.training.trainer import NonFiniteLossError


def same(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(a.equal(b) for a, b in pairs)


def trained(source=None, **options):
    model = make_model()
    history = make_trainer(**options).fit(model, source or Images(20))
    return model, history


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(precision):
    (first, history), (again, same_history) = (trained(precision=precision) for _ in range(2))
    assert same(first, again)
    assert history == same_history
    assert not same(first, trained(precision=precision, seed=1)[0])


def test_workers_change_nothing():
    (alone, history), (helped, same_history) = (trained(num_workers=n) for n in (0, 2))
    assert same(alone, helped)
    assert history == same_history


@pytest.mark.usefixtures("generators_untouched")
def test_the_global_generators_are_left_alone():
    model, _ = trained()
    make_trainer().evaluate(model, Images(20))


@pytest.mark.parametrize(("n", "batch_size"), [(20, 8), (16, 8), (5, 2), (3, 2), (2, 64), (9, 8)])
def test_an_epoch_sees_every_image_once_in_even_batches_of_two_or_more(n, batch_size):
    source = Images(n)
    _, history = trained(source, epochs=2, batch_size=batch_size)
    per_epoch = len(source.batches) // 2
    epochs = [source.batches[:per_epoch], source.batches[per_epoch:]]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(n))
        sizes = {len(batch) for batch in batches}
        assert min(sizes) >= 2
        assert max(sizes) <= max(batch_size, 3)
        assert max(sizes) - min(sizes) <= 1
    if n > 3:
        assert not np.array_equal(*(np.concatenate(batches) for batches in epochs))
    assert np.isfinite(history["loss"]).all()


def test_every_number_of_the_history_has_one_value_per_epoch():
    _, history = trained(epochs=3)
    assert {len(values) for values in history.values()} == {3}
    assert {type(value) for values in history.values() for value in values} == {float}
    assert np.isfinite(list(history.values())).all()
    assert history.keys() > {
        "loss",
        "transport",
        "variance",
        "covariance",
        "marginal_error",
        "matching_accuracy",
        "matching_chance",
        "spread",
        "effective_rank",
        "learning_rate",
    }


def test_the_loss_of_the_history_is_the_objective_of_its_terms():
    objective = Objective(alpha=1, beta=2, eta=0.1, global_weight=3)
    _, history = trained(objective=objective)
    for epoch in range(2):
        terms = {name: torch.tensor(values[epoch]) for name, values in history.items()}
        assert history["loss"][epoch] == pytest.approx(objective.total(terms).item(), rel=1e-5)


def test_training_lowers_the_loss_on_fixed_views():
    trainer, model, source = make_trainer(epochs=20, learning_rate=5e-3), make_model(), Images(32)
    before = trainer.evaluate(model, source)["loss"]
    trainer.fit(model, source)
    assert trainer.evaluate(model, source)["loss"] < 0.9 * before


def test_the_learning_rate_rises_linearly_to_its_peak_and_falls_along_a_cosine_to_zero():
    peak, epochs, warmup = 1e-3, 30, 3
    _, history = trained(Images(4), epochs=epochs, learning_rate=peak)
    rates = np.array(history["learning_rate"]) / peak
    np.testing.assert_allclose(rates[: warmup - 1], [2 / 3, 1])
    steps = np.arange(warmup, epochs + 1)
    cosine = 0.5 * (1 + np.cos(math.pi * (steps - warmup) / (epochs - warmup)))
    np.testing.assert_allclose(rates[warmup - 1 :], cosine, atol=1e-12)
    assert rates.max() == 1


def test_accumulated_batches_give_the_step_of_the_large_batch(monkeypatch):
    # Iterations of the transport would stop when all of a batch are good enough.
    monkeypatch.setattr(model_module, "transport_plan", partial(transport_plan, tol=0))
    # No norm of batches, and no loss that compares images: those see the small batch.
    options = {"objective": Objective(alpha=1, beta=0, eta=0, global_weight=0), "weight_decay": 0}
    large, small, smaller = (make_model(norm=False) for _ in range(3))
    expected = make_trainer(batch_size=20, **options).fit(large, Images(60))
    history = make_trainer(batch_size=5, accumulate=4, **options).fit(small, Images(60))
    make_trainer(batch_size=5, **options).fit(smaller, Images(60))
    assert history["transport"] == pytest.approx(expected["transport"], rel=1e-3)
    assert history["learning_rate"] == expected["learning_rate"]
    for name, value in large.encoder.named_parameters():
        torch.testing.assert_close(small.get_parameter(f"encoder.{name}"), value, atol=1e-4, rtol=0)
        assert not smaller.get_parameter(f"encoder.{name}").allclose(value, atol=1e-3), name


def test_batches_left_over_are_accumulated_too():
    model, source = make_model(), Images(20)
    _, history = trained(source, batch_size=4, accumulate=3, epochs=1)
    assert len(source.batches) == 5
    assert np.isfinite(history["loss"]).all()
    assert not same(model, trained(batch_size=4, accumulate=3, epochs=1)[0])


class Slow(Images):
    """Time passes while images are read: `minutes` an epoch."""

    def __init__(self, n, monkeypatch, minutes):
        super().__init__(n)
        self.now, self.minutes = 0.0, minutes
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def read(self, indices, size):
        self.now += 60 * self.minutes * len(indices) / len(self)
        return super().read(indices, size)


@pytest.mark.parametrize(("max_time", "epochs"), [(0.01, 1), (29, 3), (31, 4), (1000, 5)])
def test_no_epoch_is_begun_after_the_time_and_none_is_cut_short(max_time, epochs, monkeypatch):
    source = Slow(20, monkeypatch, minutes=10)
    _, history = trained(source, epochs=5, max_time=max_time)
    assert len(history["loss"]) == epochs
    assert len(source.batches) == 3 * epochs
    _, whole = trained(epochs=5)
    assert history["loss"] == whole["loss"][:epochs]


class Nothing:
    """An objective without gradient: only weight decay is left to change the weights."""

    def total(self, terms):
        return 0 * sum(value for value in terms.values() if value.requires_grad)


def test_weight_decay_spares_norms_and_biases():
    model, before = make_model(), make_model().state_dict()
    make_trainer(objective=Nothing(), weight_decay=1.0, learning_rate=0.01).fit(model, Images(20))
    for name, value in model.named_parameters():
        if value.ndim > 1:
            assert value.norm() < 0.99 * before[name].norm(), name
        else:
            assert value.equal(before[name]), name


class Failing(Objective):
    """Gives `wrong(loss)` instead of the loss at one step."""

    def total(self, terms):
        self.__dict__["steps"] = self.__dict__.get("steps", 0) + 1
        loss = super().total(terms)
        return self.__dict__["wrong"](loss) if self.steps == self.__dict__["at"] else loss


def infinite_gradient(loss):
    return loss + (loss - loss.detach()).sqrt()


def failing(wrong, at):
    objective = Failing(alpha=1, beta=1, eta=0.1, global_weight=1)
    objective.__dict__.update(wrong=wrong, at=at)
    return objective


class Recorded(Images):
    """Keeps the weights that the model has when each batch is read."""

    def __init__(self, n, model):
        super().__init__(n)
        self.model, self.states = model, []

    def read(self, indices, size):
        self.states.append(copy_of(self.model))
        return super().read(indices, size)


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        (lambda loss: loss * math.nan, 5),
        (lambda loss: loss * math.inf, 6),
        (infinite_gradient, 5),
        # The last step of an epoch, and so of the run: no later loss can tell.
        (infinite_gradient, 6),
    ],
    ids=["nan", "infinite", "gradient", "last gradient"],
)
def test_a_loss_that_is_not_finite_stops_training_with_the_last_good_epoch(wrong, at):
    model = make_model()
    source = Recorded(24, model)
    with pytest.raises(NonFiniteLossError, match=r"not finite in epoch 2.*epoch 1 are kept") as e:
        make_trainer(objective=failing(wrong, at)).fit(model, source)
    assert e.value.epoch == 1
    assert {len(values) for values in e.value.history.values()} == {1}
    state = model.state_dict()
    assert all(state[name].equal(value) for name, value in source.states[3].items())
    assert not model.training


def test_a_first_epoch_that_fails_leaves_the_model_as_it_was():
    model = make_model()
    with pytest.raises(NonFiniteLossError, match=r"epoch 1\. No epoch was completed"):
        make_trainer(objective=failing(lambda loss: loss * math.nan, 3)).fit(model, Images(24))
    assert same(model, make_model())


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision_is_the_encoders_and_the_crops_are_not_rounded(precision, dtype):
    model, source = make_model(), Images(8)
    maps, inputs, terms = [], [], []
    model.encoder.register_forward_hook(lambda *args: maps.append(args[2][0].dtype))
    model.register_forward_pre_hook(lambda module, args: inputs.append(args))
    model.register_forward_hook(lambda *args: terms.extend(args[2][0].values()))
    trainer = make_trainer(precision=precision, epochs=1)
    trainer.fit(model, source)
    assert maps == [dtype]
    assert {value.dtype for value in terms} == {torch.float32}
    batch = torch.from_numpy(source.images[source.batches[0]])
    for given, drawn in zip(inputs[0], trainer.draw(batch, 0, 0), strict=True):
        assert given.dtype == torch.float32
        assert given.equal(drawn)


def test_views_are_keyed_by_seed_epoch_and_place():
    batch = torch.from_numpy(Images(4).images)
    draws = [
        make_trainer(seed=seed).draw(batch, epoch, start)[1]
        for seed, epoch, start in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 4)]
    ]
    assert draws[0].equal(make_trainer().draw(batch, 0, 0)[1])
    assert all(not draws[0].equal(other) for other in draws[1:])


def test_an_image_gets_the_same_views_whatever_batch_it_is_in():
    images = torch.from_numpy(Images(8).images)
    views, affine = make_trainer().draw(images, 2, 5)
    for row in range(8):
        alone, map_alone = make_trainer().draw(images[row : row + 1], 2, 5 + row)
        assert map_alone.equal(affine[row::8])
        torch.testing.assert_close(alone, views[row::8])


def test_images_are_standardised_before_views_are_drawn():
    plain = ViewSampler(crop_scale=(1, 1), aspect=1, contrast=0, brightness=0, blur=1, erase=0)
    batch = torch.from_numpy(Images(4).images)
    views, _ = make_trainer(views=plain, mean=0.5, std=2.0).draw(batch, 0, 0)
    torch.testing.assert_close(views[:4], (batch - 0.5) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_evaluation_repeats_itself_and_changes_nothing(precision):
    model, source = make_model(dropout=0.5), Images(20)
    trainer = make_trainer(precision=precision)
    before = copy_of(model)
    first, again = (trainer.evaluate(model, source) for _ in range(2))
    assert first == again
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    in_float32 = make_trainer(precision="float32").evaluate(model, source)
    assert first["loss"] == pytest.approx(in_float32["loss"], rel=0.05)


def test_evaluation_weighs_every_image_alike():
    trainer, model, source = make_trainer(batch_size=6), make_model().eval(), Images(11)
    expected = 0.0
    for indices in (range(6), range(6, 11)):
        with torch.inference_mode():
            terms, _ = model(*trainer.draw(torch.from_numpy(source.images[indices]), 0, indices[0]))
        expected += terms["transport"].item() * len(indices) / 11
    assert trainer.evaluate(model, source)["transport"] == pytest.approx(expected, rel=1e-5)


def test_a_trained_model_is_in_eval_mode_on_the_cpu():
    model, _ = trained()
    assert not model.training
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_no_epochs_leave_the_weights_alone():
    model, history = trained(epochs=0)
    assert history == {}
    assert same(model, make_model())


@pytest.mark.parametrize("verbose", [False, True])
def test_progress_is_shown_only_when_asked_for(capsys, verbose):
    trained(verbose=verbose)
    shown = capsys.readouterr().err
    assert bool(shown) == verbose
    if verbose:
        assert "6/6" in shown
        assert "epoch=2/2" in shown


def test_a_trainer_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_trainer().epochs = 3
