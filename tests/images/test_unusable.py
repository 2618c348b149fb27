import json
import warnings

import pytest

from otcxr_sk.images import (
    ImageReadError,
    Unusable,
    UnusableImageWarning,
    unusable_table,
    warn_unusable,
)

PROBLEMS = [
    Unusable(7, None, ValueError("row 7: the image contains NaN")),
    Unusable(2, "c.png", ImageReadError("cannot read 'c.png': the file is empty")),
]


def test_the_table_is_plain_data_sorted_by_row():
    table = unusable_table(PROBLEMS)
    assert table == [
        {"row": 2, "file": "c.png", "reason": "the file is empty"},
        {"row": 7, "file": None, "reason": "row 7: the image contains NaN"},
    ]
    assert json.loads(json.dumps(table)) == table


def test_the_warning_gives_number_reasons_and_fate_at_the_line_of_the_user():
    with pytest.warns(UnusableImageWarning) as caught:
        warn_unusable(PROBLEMS, 9, "warn", "They are left out.")
    assert str(caught[0].message).splitlines() == [
        "2 of 9 images cannot be used:",
        "  row 7: the image contains NaN",
        "  cannot read 'c.png': the file is empty",
        "They are left out.",
    ]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("problems", "on_error"), [([], "warn"), (PROBLEMS, "nan"), (PROBLEMS, "raise")]
)
def test_there_is_no_warning_without_problems_or_unless_asked_for(problems, on_error):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unusable(problems, 9, on_error, "They are left out.")
