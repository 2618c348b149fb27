import pytest
import torch

from otcxr_sk.training import _device, choose_device, choose_precision, private_randomness

CPU = torch.device("cpu")


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
