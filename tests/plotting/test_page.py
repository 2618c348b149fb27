"""The page about the displays."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "seeing.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
def test_the_examples_of_seeing_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, "seeing.md", "exec"), names)
    assert {file.name for file in tmp_path.iterdir()} == {
        "history.png",
        "embedding.png",
        "explanation.png",
    }
