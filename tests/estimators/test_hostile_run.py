"""A checkpoint that somebody has changed, checksum and all, is refused by name or harmless."""

import json
import random
import shutil
import warnings
from functools import partial
from hashlib import sha256

import numpy as np
import pytest
import safetensors.torch
import torch

from otcxr_sk.estimators._encoder import build_network
from otcxr_sk.estimators._fit import draw_seed
from otcxr_sk.estimators._run import describe_run, open_run
from otcxr_sk.training import CheckpointWarning, Randomness, join_processes
from otcxr_sk.training._epoch import EpochPlan
from otcxr_sk.training._progress import Progress

ODD = [
    None, True, -1, 0, 7, 2**70, 10**4000, 1e300, float("nan"), float("inf"), "", "x",
    "\x1b[2J" * 10**4, [], {}, [[]], [None], ["x"] * 100, {"x": {}}, [1, 2, 3], [7, 7],
    [0] * 10**4,
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tiny, X, tmp_path_factory):
    """A run that has ended, and a function that continues what a folder holds."""
    folder = tmp_path_factory.mktemp("run")
    estimator = tiny(checkpoint=folder, epochs=1).fit(X)

    def go_on(folder):
        settings = estimator.set_params(checkpoint=folder)._settings()
        source = estimator._source(X, fitting=True)
        patients = np.arange(len(source))
        seed = draw_seed(settings.random_state)
        describe = partial(describe_run, settings, source, seed, patients, None)
        with open_run(settings, source, seed, join_processes("cpu"), describe) as run:
            if run.start is None:
                return
            model = build_network(estimator._encoder().architecture, to_train=True)
            optimizer = settings.optimizer.build(model)
            plan = EpochPlan(len(source), settings.batch_size, 1, 0, 1)
            cpu = torch.device("cpu")
            Progress(model, optimizer, plan, random=Randomness(0, cpu)).unpack(run.start)

    return max(folder.glob("checkpoint-*")), go_on


def places(value, path=()):
    """Yield the path of every value in a tree of JSON."""
    yield path
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from places(value[key], (*path, key))


def changed(numbers, rng):
    """Return a tree of JSON with a value replaced or removed."""
    numbers = json.loads(json.dumps(numbers))
    *above, key = rng.choice([path for path in places(numbers) if path])
    inside = numbers
    for step in above:
        inside = inside[step]
    if rng.random() < 0.3:
        del inside[key]
    else:
        inside[key] = rng.choice(ODD)
    return numbers


def with_other_tensors(tensors, rng):
    tensors = dict(tensors)
    name = rng.choice(sorted(tensors))
    value = tensors.pop(name)
    match rng.randrange(5):
        case 0:
            tensors[f"{name}/"] = value
        case 1:
            tensors[name] = value.flatten()[:1].clone()
        case 2:
            tensors[name] = torch.zeros(3, 5, 2)
        case 3:
            tensors[name] = value.to(torch.int16)
    return tensors


def try_mutants(made, folder, seed, count):
    whole, go_on = made
    with safetensors.safe_open(whole, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    rng, refused = random.Random(seed), 0
    for number in range(count):
        numbers = json.loads(header["numbers"])
        some = tensors
        if rng.random() < 0.8:
            numbers = changed(numbers, rng)
        else:
            some = with_other_tensors(tensors, rng)
        content = safetensors.torch.save(some, {**header, "numbers": json.dumps(numbers)})
        place = folder / str(number)
        place.mkdir()
        name = f"checkpoint-{3:09}-{sha256(content).hexdigest()}.safetensors"
        (place / name).write_bytes(content)
        message = refusal(go_on, place)
        if message is not None:
            refused += 1
            assert "use another folder" in message.lower()
            assert len(message) < 1500
            assert message.isprintable()
        shutil.rmtree(place)
    return refused


def refusal(go_on, place):
    try:
        with warnings.catch_warnings():
            # Of another version of the library.
            warnings.simplefilter("ignore", CheckpointWarning)
            go_on(place)
    except ValueError as error:
        return str(error)
    return None


def test_a_whole_checkpoint_is_continued(made, tmp_path):
    whole, go_on = made
    shutil.copy(whole, tmp_path)
    go_on(tmp_path)


def test_a_changed_checkpoint_is_refused_by_name_or_harmless(made, tmp_path):
    assert try_mutants(made, tmp_path, seed=0, count=30) > 15


@pytest.mark.slow
def test_two_thousand_changed_checkpoints_are_refused_by_name_or_harmless(made, tmp_path):
    assert try_mutants(made, tmp_path, seed=1, count=2000) > 1000
