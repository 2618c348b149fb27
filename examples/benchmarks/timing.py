"""Functions timed side by side, in turns, so that a busy moment hits all of them."""

import time

import numpy as np
from devices import synchronize


def time_in_turns(repeats, *, device="cpu", clock=time.perf_counter, **functions):
    """Return the seconds that each function took in each repeat, after one warm-up.

    Parameters
    ----------
    repeats : int
    device : str, default="cpu"
        Where the functions compute. A GPU is waited for: they only tell it what to do.
    clock : callable
        Returns the time in seconds.
    **functions : callable
        Called without arguments, one after the other in every repeat.

    Returns
    -------
    seconds : dict of str to ndarray of shape (repeats,)
    """
    seconds = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            started = clock()
            function()
            synchronize(device)
            seconds[name].append(clock() - started)
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def median_and_range(values):
    """Return the median, the least and the greatest value."""
    return tuple(map(float, np.percentile(values, [50, 0, 100])))


def report(label, ratios, target=None):
    """Print the median and the range of ratios, and what they should be."""
    middle, low, high = median_and_range(ratios)
    wanted = f", target {target}" if target else ""
    print(f"{label:<66}{middle:6.3f}  ({low:.3f} to {high:.3f}){wanted}", flush=True)
