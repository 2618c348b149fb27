"""What a program sets for its libraries, and what the library computes with."""

import sys
import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import sklearn
import torch
from torch import nn

from otcxr_sk._ordinary import ordinary
from otcxr_sk._torch_defaults import TorchDefaults

DTYPES = [torch.float64, torch.float16, torch.bfloat16]


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def flushing_denormals():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def without_gradients():
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


SETTINGS = {
    "no gradients": without_gradients,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast that is off": lambda: torch.autocast("cpu", enabled=False),
    "default device": lambda: default_device("meta"),
    "device": lambda: torch.device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "denormals": flushing_denormals,
    "errors of NumPy": lambda: np.errstate(all="raise"),
    "scikit-learn": lambda: sklearn.config_context(
        assume_finite=True, transform_output="pandas", working_memory=1
    ),
}
ALL = ["inference", "autocast", "default device", "float16", "denormals", "errors of NumPy"]


def facts():
    """Describe what a computation sees of the settings."""
    made = torch.zeros(1)
    torch.autocast_increment_nesting()
    weight = nn.Parameter(torch.ones(2, 2))
    product = weight @ torch.ones(2, 2)
    return {
        "made": (made.dtype, made.device, made.is_inference()),
        "gradients": torch.is_grad_enabled() and product.requires_grad,
        "product": product.dtype,
        "autocast": (torch.is_autocast_enabled("cpu"), torch.autocast_decrement_nesting()),
        "denormals": sys.float_info.min * float(torch.tensor(0.5)) > 0,
        "errors": np.geterr(),
        "scikit-learn": sklearn.get_config(),
    }


@pytest.fixture(scope="module")
def usual():
    return facts()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_program_is_as_by_default_and_then_as_before(name, usual):
    with SETTINGS[name]():
        set_by_program = np.geterr(), sklearn.get_config(), torch.is_autocast_enabled("cpu")
        state = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.tensor([]).device
        with ordinary():
            assert facts() == usual
        assert (np.geterr(), sklearn.get_config(), torch.is_autocast_enabled("cpu")) == (
            set_by_program
        )
        assert (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.tensor([]).device,
        ) == state
    assert facts() == usual


def test_all_of_them_together(usual):
    with ExitStack() as stack:
        for name in ALL:
            stack.enter_context(SETTINGS[name]())
        with ordinary(), ordinary():
            assert facts() == usual
    assert facts() == usual


def test_it_works_as_a_decorator(usual):
    with torch.no_grad():
        assert ordinary()(facts)() == usual


def test_no_other_thread_sees_it():
    inside, seen = threading.Event(), []
    before = threading.Event()

    def look():
        before.wait()
        seen.append((torch.zeros(1).dtype, np.geterr()["over"], torch.is_grad_enabled()))
        inside.set()

    with default_dtype(torch.float64):
        thread = threading.Thread(target=look)
        thread.start()
        with ordinary():
            before.set()
            inside.wait()
            assert torch.zeros(1).dtype == torch.float32
        thread.join()
    assert seen == [(torch.float64, "warn", True)]


def test_weights_cast_within_autocast_are_forgotten_when_it_ends():
    with torch.autocast("cpu", enabled=False), ordinary():
        weight = nn.Parameter(torch.zeros(2, 2))
        for number in (1.0, 2.0):
            with torch.no_grad():
                weight.fill_(number)
            with torch.autocast("cpu", torch.bfloat16):
                assert (weight @ torch.eye(2)).float().mean() == number


INTEGERS = torch.arange(1, 7).view(2, 3)
MADE = {
    "zeros": lambda: torch.zeros(2, 3),
    "ones": lambda: torch.ones((2, 3), dtype=None),
    "eye": lambda: torch.eye(3),
    "linspace": lambda: torch.linspace(0, 1, 7),
    "logspace": lambda: torch.logspace(0, 1, 7),
    "window": lambda: torch.hann_window(7),
    "rand": lambda: torch.rand(5, generator=torch.Generator().manual_seed(0)),
    "normal": lambda: torch.normal(0, 1, (5,), generator=torch.Generator().manual_seed(0)),
    "tensor": lambda: torch.tensor([0.1, 1 / 3]),
    "number": lambda: torch.tensor(0.1),
    "integers": lambda: torch.tensor([1, 2]),
    "arange": lambda: torch.arange(0, 1, 0.1),
    "arange of integers": lambda: torch.arange(5),
    "full": lambda: torch.full((2,), 0.1),
    "full of integers": lambda: torch.full((2,), 3),
    "array": lambda: torch.tensor(np.array([0.1], np.float32)),
    "double array": lambda: torch.as_tensor(np.array([0.1])),
    "half array": lambda: torch.as_tensor(np.array([0.1], np.float16)),
    "copy": lambda: torch.tensor([0.1]).clone(),
    "a dtype": lambda: torch.zeros(2, dtype=torch.float64),
    "double": lambda: torch.zeros(2).double(),
    "half": lambda: torch.ones(2).half(),
    "to": lambda: torch.ones(2).to(torch.bfloat16),
    "double of integers": lambda: INTEGERS.double(),
    "half of integers": lambda: INTEGERS.to(torch.float16),
    "quotient": lambda: INTEGERS / 7,
    "quotient of integers": lambda: INTEGERS / (INTEGERS + 1),
    "root": lambda: INTEGERS.sqrt(),
    "logarithm": lambda: torch.log(INTEGERS),
    "power": lambda: 10000.0 ** (-INTEGERS / 3),
    "product": lambda: INTEGERS * 0.1,
    "sine": lambda: torch.sin(INTEGERS),
    "layer": lambda: nn.init.ones_(nn.Linear(3, 2).weight),
    "buffer": lambda: nn.BatchNorm2d(3).running_var,
    "window within": lambda: torch.stft(
        torch.ones(16), 8, window=torch.hann_window(8), return_complex=True
    ).abs(),
}


@pytest.mark.parametrize("name", MADE)
def test_what_torch_makes_has_its_usual_dtype_device_and_bits(name):
    expected = MADE[name]()
    for dtype in DTYPES:
        with default_dtype(dtype), default_device("meta"), TorchDefaults():
            found = MADE[name]()
            assert (found.dtype, found.device) == (expected.dtype, expected.device), dtype
        assert found.equal(expected), dtype


def test_a_device_that_is_named_is_kept():
    with TorchDefaults():
        assert torch.zeros(2, device="meta").is_meta
        assert torch.as_tensor(torch.zeros(2, device="meta")).is_meta
