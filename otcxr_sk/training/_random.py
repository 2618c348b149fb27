"""Random numbers of a run, apart from those of the rest of the program."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Result = TypeVar("Result")

# Torch's default generators belong to all threads: only one of them may exchange their states.
_exchange = threading.RLock()


class Randomness:
    """A stream of random numbers that is seeded once and then goes on.

    Its states are kept from use to use and in checkpoints, as those of torch's generators.

    Parameters
    ----------
    seed : int
    device : torch.device
        Where, besides the CPU, numbers are drawn.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self._generators = {"cpu": torch.Generator()}
        if device.type == "cuda":
            self._generators["cuda"] = torch.Generator(device)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start over with another seed."""
        for generator in self._generators.values():
            generator.manual_seed(seed)

    def states(self) -> dict[str, Tensor]:
        """Return the states of the generators, by the kind of device."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def go_on(self, states: Mapping[str, Tensor]) -> None:
        """Go on from what `states` returned, here or on a machine with other devices."""
        for name, generator in self._generators.items():
            if name in states:
                generator.set_state(states[name])

    @contextmanager
    def given(self) -> Iterator[None]:
        """Have torch draw from this stream in this thread, and leave its default generators alone.

        Costs some microseconds for every function that torch calls.
        """
        with _Giving(self):
            yield

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Put this stream in place of torch's default generators, in all threads.

        Other runs that do so wait; others that draw meanwhile draw from this stream.
        """
        with _exchange, ExitStack() as after:
            theirs = self._read_defaults()
            after.callback(self._write_defaults, theirs)
            self._write_defaults(self.states())
            try:
                yield
            finally:
                self.go_on(self._read_defaults())

    def _read_defaults(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if "cuda" in self._generators:
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states

    def _write_defaults(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self._device)

    def generator_for(self, device: torch.device) -> torch.Generator | None:
        """Return the generator of a device, if this stream has one."""
        return self._generators.get(device.type)


class TrainingPasses:
    """Passes of a model in training, whose encoder draws from a stream if it draws at all.

    The first pass shows whether it does. Torch's default generators are exchanged for encoders
    that know no others: those with gradient checkpointing, and those that torch compiles.

    Parameters
    ----------
    model : OTCXRModel
    random : Randomness
    """

    def __init__(self, model: Any, random: Randomness) -> None:
        self._model, self._random = model, random
        self._draws: bool | None = None
        self._exchanges = any(hasattr(module, "_orig_mod") for module in model.modules())

    def do(self, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, which goes forward and backward.

        It is begun a second time, with the buffers of the model as before, if the first pass turns
        out to use gradient checkpointing.
        """
        if self._exchanges:
            with self._random.exchanged():
                return work()
        if self._draws is not None:
            with self._encoding(_Giving(self._random) if self._draws else nullcontext()):
                return work()
        buffers = {name: value.clone() for name, value in self._model.named_buffers()}
        states = self._random.states()
        first = _FirstPass(self._random)
        try:
            with self._encoding(first):
                return work()
        except _Recomputes:
            self._exchanges = True
            self._random.go_on(states)
            for name, value in self._model.named_buffers():
                value.copy_(buffers.get(name, value))
        finally:
            self._draws = first.gave
        return self.do(work)

    @contextmanager
    def _encoding(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        self._model.encoding = lambda: context
        try:
            yield
        finally:
            self._model.encoding = nullcontext


class _Giving(TorchDispatchMode):
    """Gives a stream's generator to all functions of ATen that draw.

    Attributes
    ----------
    gave : bool
        Whether there was one.
    """

    def __init__(self, random: Randomness) -> None:
        super().__init__()
        self._random, self.gave = random, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _draws(func, args, kwargs) or kwargs.get("generator"):
            return func(*args, **kwargs)
        self.gave = True
        places = [one.device for one in args if isinstance(one, Tensor)]
        generator = self._random.generator_for(
            places[0] if places else torch.device(kwargs.get("device") or "cpu")
        )
        taking = _with_generator(func)
        if generator is not None and taking is not None:
            return taking(*args, **{**kwargs, "generator": generator})
        # Functions that are made of others arrive whole where there are no gradients.
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        with self._random.exchanged():
            return func(*args, **kwargs)


class _FirstPass(_Giving):
    """Ends a pass where gradient checkpointing begins.

    It will call functions a second time, with the default generators in the state that it has read
    already.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _is_checkpointed():
            raise _Recomputes
        return super().__torch_dispatch__(func, types, args, kwargs)


class _Recomputes(BaseException):
    """Ends a pass; no network catches it."""


@cache
def _may_draw(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Tell whether a function of ATen draws random numbers."""
    if not _may_draw(func):
        return False
    for place, arg in enumerate(func._schema.arguments):
        if arg.name in ("dropout", "dropout_p", "train"):
            value = args[place] if place < len(args) else kwargs.get(arg.name, arg.default_value)
            if not value:
                return False
    return True


def _with_generator(func: Any) -> Any:
    """Return the variant of a function of ATen that takes a generator, if there is one."""
    given = {(arg.name, str(arg.type)) for arg in func._schema.arguments}
    if "generator" in {name for name, _ in given}:
        return func
    for name in func.overloadpacket.overloads():
        other = getattr(func.overloadpacket, name)
        more = {(arg.name, str(arg.type)) for arg in other._schema.arguments} - given
        if len(other._schema.arguments) == len(given) + 1 and {n for n, _ in more} == {"generator"}:
            return other
    return None


def _is_checkpointed() -> bool:
    """Tell whether this is called by way of torch's gradient checkpointing."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back
    return False
