"""The pages about the displays and the report."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "guide"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
@pytest.mark.parametrize(
    ("page", "written"),
    [
        ("seeing.md", {"history.png", "embedding.png", "explanation.png"}),
        ("reporting.md", {"report.html"}),
    ],
)
def test_the_examples_run(tmp_path, monkeypatch, page, written):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, page, "exec"), names)
    assert {file.name for file in tmp_path.iterdir()} == written
