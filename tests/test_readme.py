"""What the README shows runs."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
def test_the_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_there_are_two_setup_commands_of_one_line():
    assert len(re.findall(r"^python3 -m venv .+$", README, flags=re.MULTILINE)) == 2


def test_every_local_link_leads_somewhere():
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (root / link).exists()] == []
