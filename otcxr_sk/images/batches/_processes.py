"""Processes that do tasks ahead, each of which sends its results through a pipe of its own.

They share no memory, lock or queue, so one that dies neither blocks the others nor goes unnoticed,
and they need neither shared memory nor semaphores of the system.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from otcxr_sk._warning import warn_user

Work = Callable[[Any], Any]

# The other start methods, default on other systems and in later Pythons, copy all data.
METHOD = "fork" if sys.platform == "linux" else None

# Seconds after which to tell that a silent process is waited for, again and again.
PATIENCE = 300

# Seconds between two looks at a process, whose end is not always announced, and until one that
# has done its work is expected to have ended.
_LOOK, _GRACE = 5, 1

# A process that is started at the same time by another thread would keep a pipe open.
_starting = threading.Lock()

# The ends of pipes from which this process reads.
_read_here: set[Connection] = set()


class CannotStart(Exception):
    """Processes cannot be started here; the message says why."""


class Died(Exception):
    """A process ended before its work was done.

    Parameters
    ----------
    exitcode : int or None
        Negative for a signal, None if unknown.
    task : int
        Number of the task that it was at.
    """

    def __init__(self, exitcode: int | None, task: int) -> None:
        self.exitcode, self.task = exitcode, task


class _Elsewhere(Exception):
    """Where in another process an error was raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Team:
    """Processes, of which number i does the tasks i, i + n, i + 2 n and so on.

    Parameters
    ----------
    work : callable
        Takes a task.
    tasks : sequence
    n : int
        Number of processes.

    Raises
    ------
    CannotStart
    """

    def __init__(self, work: Work, tasks: Sequence[Any], n: int) -> None:
        if multiprocessing.current_process().daemon:
            raise CannotStart("this process belongs to a pool, whose processes may start no others")
        # Here, because forked processes then need not load it each by itself.
        import torch  # noqa: F401

        context: Any = multiprocessing.get_context(METHOD)
        self._owner = os.getpid()
        self._forks = forks = context.get_start_method() == "fork"
        given = (work, tasks) if forks else (_pack(work, tasks),)
        self._n_tasks = len(tasks)
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        # Messages that have come, their number, and who will send no more.
        self._inbox: list[deque[bytes]] = [deque() for _ in range(n)]
        self._received = [0] * n
        self._ended: set[int] = set()
        try:
            for first in range(n):
                self._start(context, _inherit if forks else _unpack, (*given, first, n))
        except BaseException as error:
            self.dismiss(at_once=True)
            if not isinstance(error, OSError):
                raise
            raise CannotStart(f"the system refuses to start any: {error.strerror}") from error

    def _start(self, context: Any, target: Callable[..., None], given: tuple[Any, ...]) -> None:
        with _starting:
            ours, theirs = context.Pipe(duplex=False)
            self._pipes.append(ours)
            _read_here.add(ours)
            # Otherwise, its end would not be the end of the pipe.
            with theirs:
                process = context.Process(target=target, args=(*given, theirs), daemon=True)
                # Before it starts, so that Ctrl-C meanwhile ends it.
                self._processes.append(process)
                process.start()

    def result(self, task: int, on_silence: Callable[[], None]) -> Any:
        """Wait for the result of a task; they are asked for in order.

        Parameters
        ----------
        task : int
        on_silence : callable
            Called after every `PATIENCE` seconds without a result.

        Raises
        ------
        CannotStart
            A process could not begin.
        Died
            A process ended, whichever.
        Exception
            What `work` raised.
        """
        which = task % len(self._processes)
        silent = 0
        while not self._inbox[which]:
            has_come = self._wait(which)
            self._take(which)
            for one in tuple(self._ended):
                self._require_all_done(one)
            if not has_come:
                silent += _LOOK
                if silent % PATIENCE == 0:
                    on_silence()
        return _open(self._inbox[which].popleft())

    def _wait(self, which: int) -> bool:
        """Wait for a message of a process, or the end of any; return whether there is one."""
        living = [one for one in range(len(self._processes)) if one not in self._ended]
        ends = {self._processes[one].sentinel: one for one in living}
        ready = wait([self._pipes[which], *ends], _LOOK)
        self._ended |= {ends[end] for end in ends if end in ready}
        # Another process that has the same files open keeps an end from being announced.
        if not ready:
            self._ended |= {one for one in living if self._processes[one].exitcode is not None}
        return bool(ready)

    def _take(self, which: int) -> bool:
        """Take in a message of a process, if there is one, and return whether there was."""
        try:
            if not self._pipes[which].poll():
                return False
            message = self._pipes[which].recv_bytes()
        # The pipe has ended, perhaps within a message.
        except (EOFError, OSError):
            self._ended.add(which)
            return False
        # The first, an empty one, says that it has begun.
        if message:
            self._inbox[which].append(message)
        self._received[which] += 1
        return True

    def _require_all_done(self, which: int) -> None:
        """Raise an error if a process has ended before its work was done."""
        while self._take(which):
            pass
        n, received = len(self._processes), self._received[which]
        if received > len(range(which, self._n_tasks, n)):
            return
        process = self._processes[which]
        process.join(_LOOK)
        if not received and not self._forks:
            raise CannotStart(
                "they ended as soon as they started: on this system, a script needs its main part "
                "under `if __name__ == '__main__':`, and its classes in a module of their own"
            )
        raise Died(process.exitcode, which + n * max(0, received - 1))

    def dismiss(self, *, at_once: bool) -> None:
        """End the processes: `at_once`, or after all tasks are done."""
        # A process that was forked from this one has a copy of this object.
        if os.getpid() != self._owner:
            return
        for pipe in self._pipes:
            _read_here.discard(pipe)
            pipe.close()
        for process in self._processes:
            if process.pid is None:
                continue
            if not at_once:
                process.join(_GRACE)
            if process.is_alive():
                process.kill()
            process.join(_LOOK)


def _pack(work: Work, tasks: Sequence[Any]) -> bytes:
    try:
        return pickle.dumps((work, tasks), 5)
    # Any error, because data sets are written by anybody.
    except Exception as error:
        raise CannotStart("they get copies of the images by pickle, which fails") from error


def _inherit(*given: Any) -> None:
    # A pipe that a worker could read from itself would not break when the process that has started
    # it is killed, and whoever writes to it would wait for ever.
    for pipe in _read_here:
        pipe.close()
    _serve(*given)


def _unpack(packed: bytes, first: int, n: int, pipe: Connection) -> None:
    work, tasks = pickle.loads(packed)
    # The filters of the program that asked are not known here; they decide there.
    warnings.simplefilter("always")
    _serve(work, tasks, first, n, pipe)


def _serve(work: Work, tasks: Sequence[Any], first: int, n: int, pipe: Connection) -> None:
    # Ctrl-C is sent to all processes, but the one that asked for this work decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send_bytes(b"")
        for task in tasks[first::n]:
            pipe.send_bytes(_attempt(work, task))
    except OSError:
        # Nobody waits for the rest.
        return


def _attempt(work: Work, task: Any) -> bytes:
    """Return the result or error, and the warnings on the way, as a message."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            result, error, where = work(task), None, ""
        except Exception as raised:
            result, error, where = None, raised, traceback.format_exc()
    doubts = [(str(one.message), _sendable(one.category)) for one in caught]
    try:
        message = pickle.dumps((result, error, where, doubts), 5)
        if error is not None:
            # Some errors can be pickled, but not be made again from that.
            pickle.loads(message)
        return message
    except Exception as failure:
        why = "memory ran out" if isinstance(failure, MemoryError) else "pickle fails"
        what = "what it has read" if error is None else "the error that reading raised"
        lost = RuntimeError(
            f"a worker process cannot send {what} ({why}); num_workers=0 does without workers"
        )
        return pickle.dumps((None, lost, where or traceback.format_exc(), doubts), 5)


def _sendable(category: type[Warning]) -> type[Warning]:
    """Return the class of a warning, or the closest one above it that other processes know."""
    for known in category.__mro__:
        with suppress(Exception):
            pickle.dumps(known)
            return known
    return Warning


def _open(message: bytes) -> Any:
    result, error, where, doubts = pickle.loads(message)
    for doubt, category in doubts:
        warn_user(doubt, category)
    if error is not None:
        raise error from _Elsewhere(where)
    return result
