import signal
import threading

import pytest

from otcxr_sk.training.interrupt import deferred_interrupt


@pytest.fixture(autouse=True)
def _usual_handler():
    """A process that was started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_is_noted_and_the_second_raised():
    with deferred_interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("asked", [False, True])
def test_after_the_block_all_is_as_before(asked):
    with deferred_interrupt():
        if asked:
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_someone_else_is_left_alone():
    calls = []
    signal.signal(signal.SIGINT, lambda *args: calls.append(args))
    with deferred_interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
    assert len(calls) == 1
    assert not interrupt.asked


def test_other_threads_can_train_too():
    asked = []

    def work():
        with deferred_interrupt() as interrupt:
            asked.append(interrupt.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]
