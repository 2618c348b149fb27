import weakref

import pytest
import torch
from torch import nn

from otcxr_sk.training import (
    _device,
    choose_device,
    choose_precision,
    explained_memory,
    put_on,
)

CPU = torch.device("cpu")


def test_a_device_is_found_by_its_name():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in {"cpu", "mps"}  # Tests see no other GPU.


def test_a_gpu_has_its_index(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert choose_device("auto") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:x"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=f"device='{name}' cannot be used on this machine"):
        choose_device(name)


@pytest.mark.parametrize(
    ("precision", "fast", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("float16", True, torch.float16),
        ("float32", True, torch.float32),
    ],
)
def test_auto_takes_bfloat16_only_where_it_is_fast(monkeypatch, precision, fast, dtype):
    monkeypatch.setattr(_device, "_has_fast_bf16", lambda device: fast)
    assert choose_precision(precision, CPU) == dtype


def test_this_processor_is_asked_whether_it_has_bfloat16():
    assert choose_precision("auto", CPU) in {torch.bfloat16, torch.float32}
    assert choose_precision("auto", torch.device("mps")) == torch.float32


def test_a_network_that_is_in_place_is_not_touched(monkeypatch):
    network = nn.Linear(2, 1)
    assert put_on(torch.device("meta"), network) is network
    assert network.weight.is_meta
    monkeypatch.setattr(network, "to", pytest.fail)
    assert put_on(torch.device("meta"), network) is network


def attempt(error):
    large = torch.ones(3)
    attempts.append(weakref.ref(large))
    raise error


attempts = []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_a_device_without_memory_left_is_one_error_that_says_what_to_lower(error):
    with (
        pytest.raises(MemoryError, match="ran out on the device: lower batch_size") as caught,
        explained_memory("lower batch_size"),
    ):
        attempt(error)
    assert caught.value.__cause__ is error
    # What was computed is let go, although the error is still held.
    assert attempts[-1]() is None


@pytest.mark.parametrize("words", ["size mismatch", "the database is out of memory"])
def test_other_errors_are_not_explained(words):
    with pytest.raises(RuntimeError, match=words), explained_memory("lower it"):
        raise RuntimeError(words)
