import signal
import threading

import pytest

from otcxr_sk.training._interrupt import deferred_interrupt


def test_the_first_ctrl_c_is_noted_and_the_second_is_raised():
    with deferred_interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("asked", [False, True])
def test_after_the_block_ctrl_c_is_raised_as_usual(asked):
    with deferred_interrupt():
        if asked:
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_another_handler_is_left_alone():
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
