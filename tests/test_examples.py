"""The examples run. All of them: ``pytest -m slow tests/test_examples.py``."""

import runpy
from pathlib import Path

import pytest

QUICK = {"plot_read_out"}
SLOW = (pytest.mark.slow, pytest.mark.timeout(1800))
EXAMPLES = [
    pytest.param(file, id=file.stem, marks=() if file.stem in QUICK else SLOW)
    for file in sorted(Path(__file__).parents[1].glob("examples/plot_*.py"))
]


@pytest.mark.parametrize("file", EXAMPLES)
def test_an_example_draws_a_figure(file, monkeypatch):
    # Since then pyplot shows figures that it did not make, such as those of displays.
    pytest.importorskip("matplotlib", minversion="3.11")
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.get_fignums()))
    runpy.run_path(str(file))
    pyplot.close("all")
    assert shown
