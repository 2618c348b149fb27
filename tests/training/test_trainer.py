import dataclasses
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from small_runs import (
    SIZE,
    Failing,
    Images,
    Recorded,
    Weightless,
    infinite_gradient,
    make_draw,
    make_model,
    make_objective,
    make_trainer,
    same,
)

from otcxr_sk.method import _model, transport_plan
from otcxr_sk.training import CheckpointFolder, NonFiniteLossError, Optimizer, evaluate


def trained(source=None, **options):
    model = make_model()
    history = make_trainer(**options).fit(model, source or Images(20))
    return model, history


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(precision):
    (first, history), (again, same_history) = (trained(precision=precision) for _ in range(2))
    assert same(first, again)
    assert history == same_history
    assert not same(first, trained(precision=precision, draw=make_draw(seed=1))[0])


def test_workers_change_nothing():
    (alone, history), (helped, same_history) = (trained(num_workers=n) for n in (0, 2))
    assert same(alone, helped)
    assert history == same_history


@pytest.mark.usefixtures("generators_untouched")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_generators_are_left_alone(num_workers):
    trained(num_workers=num_workers)


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


def test_the_loss_of_the_history_is_the_objective_of_its_terms():
    objective = make_objective(beta=2, global_weight=3)
    _, history = trained(objective=objective)
    for epoch in range(2):
        terms = {name: torch.tensor(values[epoch]) for name, values in history.items()}
        assert history["loss"][epoch] == pytest.approx(objective.total(terms).item(), rel=1e-5)


def test_training_lowers_the_loss_on_fixed_views():
    trainer, model, source = make_trainer(epochs=20, learning_rate=5e-3), make_model(), Images(32)
    options = {"size": SIZE, "batch_size": 8, "precision": "float32"}
    before = evaluate(model, source, trainer.draw, trainer.objective, **options)["loss"]
    trainer.fit(model, source)
    after = evaluate(model, source, trainer.draw, trainer.objective, **options)["loss"]
    assert after < 0.9 * before


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
    # The transport would iterate until all images of a batch have converged.
    monkeypatch.setattr(_model, "transport_plan", partial(transport_plan, tol=0))
    # No batch norm, and no term that compares images: these depend on the size of the batch.
    options = {
        "objective": make_objective(beta=0, eta=0, global_weight=0),
        "optimizer": Optimizer(weight_decay=0),
    }
    large, small, smaller = (make_model(norm=False) for _ in range(3))
    expected = make_trainer(batch_size=20, **options).fit(large, Images(60))
    history = make_trainer(batch_size=5, accumulate=4, **options).fit(small, Images(60))
    make_trainer(batch_size=5, **options).fit(smaller, Images(60))
    assert history["transport"] == pytest.approx(expected["transport"], rel=1e-3)
    assert history["learning_rate"] == expected["learning_rate"]
    for name, value in large.encoder.named_parameters():
        torch.testing.assert_close(small.get_parameter(f"encoder.{name}"), value, atol=1e-4, rtol=0)
        assert not smaller.get_parameter(f"encoder.{name}").allclose(value, atol=1e-3), name


def test_the_automatic_rate_counts_all_images_of_accumulated_batches():
    (_, small), (_, large) = (
        trained(learning_rate="auto", epochs=10, **cut)
        for cut in ({"batch_size": 4, "accumulate": 6}, {"batch_size": 24})
    )
    assert small["learning_rate"] == large["learning_rate"]
    assert max(large["learning_rate"]) == pytest.approx(2e-3 * math.sqrt(24 / 64))


def test_batches_left_over_are_accumulated_too():
    model, source = make_model(), Images(20)
    _, history = trained(source, batch_size=4, accumulate=3, epochs=1)
    assert len(source.batches) == 5
    assert np.isfinite(history["loss"]).all()
    assert not same(model, trained(batch_size=4, accumulate=3, epochs=1)[0])


def test_weight_decay_spares_norms_and_biases():
    model, before = make_model(), make_model().state_dict()
    optimizer = Optimizer(weight_decay=1.0)
    trainer = make_trainer(objective=Weightless(), optimizer=optimizer, learning_rate=0.01)
    trainer.fit(model, Images(20))
    for name, value in model.named_parameters():
        if value.ndim > 1:
            assert value.norm() < 0.99 * before[name].norm(), name
        else:
            assert value.equal(before[name]), name


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        (lambda loss: loss * math.nan, 5),
        (lambda loss: loss * math.inf, 6),
        (infinite_gradient, 5),
        # The last step of the run: no later loss shows it.
        (infinite_gradient, 6),
    ],
    ids=["nan", "infinite", "gradient", "last gradient"],
)
def test_a_loss_that_is_not_finite_stops_training_with_the_last_good_epoch(wrong, at):
    model = make_model()
    source = Recorded(24, model)
    with pytest.raises(NonFiniteLossError, match=r"not finite in epoch 2.*epoch 1 are kept") as e:
        make_trainer(objective=Failing(wrong, {at})).fit(model, source)
    assert e.value.epoch == 1
    assert {len(values) for values in e.value.history.values()} == {1}
    state = model.state_dict()
    assert all(state[name].equal(value) for name, value in source.states[3].items())
    assert not model.training
    again = pickle.loads(pickle.dumps(e.value))
    assert (str(again), again.epoch, again.history) == (str(e.value), 1, e.value.history)


def test_a_first_epoch_that_fails_leaves_the_model_as_it_was():
    model = make_model()
    with pytest.raises(NonFiniteLossError, match=r"epoch 1\. No epoch was completed"):
        make_trainer(objective=Failing(lambda loss: loss * math.nan, {3})).fit(model, Images(24))
    assert same(model, make_model())


def test_a_validation_loss_that_is_not_finite_stops_training_too():
    def validate(network):
        raise NonFiniteLossError("not finite")

    model = make_model()
    with pytest.raises(NonFiniteLossError, match=r"the validation loss is not finite in epoch 1"):
        make_trainer(validate=validate).fit(model, Images(24))
    assert same(model, make_model())


def test_an_embedding_that_is_not_finite_stops_training_too():
    model = make_model()
    whole = model.forward
    model.forward = lambda *views: (whole(*views)[0], whole(*views)[1] * torch.inf)
    with pytest.raises(NonFiniteLossError, match="the embedding is not finite in epoch 1"):
        make_trainer().fit(model, Images(24))


@pytest.mark.filterwarnings("ignore:Error detected in", "ignore:Anomaly Detection")
def test_where_torch_looks_for_anomalies_a_gradient_that_is_nan_is_the_same_error():
    with torch.autograd.detect_anomaly(), pytest.raises(NonFiniteLossError, match="its gradient"):
        trained(objective=Failing(lambda loss: loss + 0 * (loss - loss.detach()).sqrt(), {2}))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
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


def overflowing(at):
    return Failing(infinite_gradient, at)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_float16_skips_a_step_that_overflows(clip_norm, watched):
    options = {"precision": "float16", "optimizer": Optimizer(clip_norm=clip_norm)}
    _, weights = watched
    trained(objective=overflowing(()), **options)
    usual = len(weights)
    weights.clear()
    model, history = trained(objective=overflowing({4}), **options)
    assert len(weights) == usual - 1
    assert np.isfinite(history["loss"]).all()
    assert all(p.isfinite().all() for p in model.parameters())


class Fused(Optimizer):
    """The optimizer of a GPU, which scales gradients back by itself."""

    def build(self, model, *, on_gpu=False):
        return super().build(model, on_gpu=True)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_float16_trains_with_the_optimizer_of_a_gpu(clip_norm):
    histories = [
        trained(precision="float16", optimizer=kind(clip_norm=clip_norm))[1]
        for kind in (Optimizer, Fused)
    ]
    usual, fused = (history["loss"] for history in histories)
    assert fused == pytest.approx(usual, rel=1e-3)


def test_an_encoder_may_have_a_parameter_without_numbers():
    model = make_model()
    model.encoder.register_parameter("unused", torch.nn.Parameter(torch.zeros(0)))
    history = make_trainer(epochs=1).fit(model, Images())
    assert np.isfinite(history["loss"]).all()


def test_float16_that_always_overflows_is_an_error():
    model = make_model()
    with pytest.raises(NonFiniteLossError, match=r"No epoch was completed.*precision='float32'"):
        make_trainer(
            draw=make_draw(seed=1),
            precision="float16",
            objective=overflowing(range(1000)),
            epochs=1,
            batch_size=2,
        ).fit(model, Images(200))
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_scale_of_float16_is_resumed(tmp_path):
    class Stop(Exception):
        pass

    class Keeping(CheckpointFolder):
        def save(self, state, place):
            super().save(state, place)
            if place == 3:
                raise Stop

    options = {"precision": "float16", "objective": overflowing({1, 2, 3})}
    with pytest.raises(Stop):
        make_trainer(**options).fit(make_model(), Images(), Keeping(tmp_path))
    saved = CheckpointFolder(tmp_path).load()
    assert saved.numbers["precision"]["scale"] == 2**13
    model = make_model()
    make_trainer(precision="float16").fit(model, Images(), CheckpointFolder(tmp_path), saved)
    assert CheckpointFolder(tmp_path).load().numbers["precision"]["scale"] == 2**13


def test_float16_learns_what_float32_learns():
    (_, exact), (_, rounded) = (trained(precision=p, epochs=4) for p in ("float32", "float16"))
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.02)
    assert rounded["loss"] != exact["loss"]


def test_a_trained_model_is_in_eval_mode_on_the_cpu():
    model, _ = trained()
    assert not model.training
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_no_epochs_leave_the_weights_alone():
    model, history = trained(epochs=0)
    assert history == {}
    assert same(model, make_model())


def test_on_a_gpu_fabric_gives_no_advice_and_leaves_the_current_device_alone(monkeypatch, capfd):
    model = make_model()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(torch.cuda, "set_device", pytest.fail)
    draw = dataclasses.replace(make_draw(), device=torch.device("cuda", 1))
    fabric = make_trainer(draw=draw)._fabric(model)
    fabric.strategy.setup_environment()
    assert fabric.device == draw.device
    assert capfd.readouterr() == ("", "")
