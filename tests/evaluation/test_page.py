"""The page on what comes after training runs."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "after-training.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
def test_the_blocks_run_in_order_and_give_what_the_page_says(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.M | re.S)
    names = {}
    for block in blocks[:-1]:
        exec(compile(block, PAGE.name, "exec"), names)
    of_training = np.isin(np.arange(len(names["y"])), names["train"])
    np.testing.assert_array_equal(names["seen"], of_training)
    printed = capsys.readouterr().out
    assert "told apart with an AUC of" in printed
    assert "sensitivity" in printed
    pytest.importorskip("faiss")
    exec(compile(blocks[-1], PAGE.name, "exec"), names)
    assert names["train"][names["position"][0]].tolist() == names["rows"][0].tolist()
