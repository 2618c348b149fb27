"""Text from files can neither command a terminal nor a spreadsheet, and is never long."""

import csv
import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk._quote import brief, cell, counted, listed, plain_text, quoted

ESCAPES = "\x1b]0;title\x07\x1b[2J\u202e\x9b31m\r"


def test_a_number_and_its_noun_agree():
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


@given(st.text())
def test_shown_text_has_no_control_characters(text):
    assert all(one.isprintable() for one in quoted(text) + brief(text))
    assert all(one.isprintable() or one == "\n" for one in plain_text(text))


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"])))
def test_plain_text_is_shown_as_it_is(text):
    assert plain_text(text) == text
    assert len(text) > 80 or quoted(text) == repr(text)


@given(st.text(min_size=81))
def test_long_text_is_cut(text):
    assert quoted(text) == repr(text[:80] + "...")


def test_escape_sequences_are_visible_instead_of_obeyed():
    assert plain_text(ESCAPES) == r"\x1b]0;title\x07\x1b[2J\u202e\x9b31m\r"


def test_text_of_numpy_is_quoted_as_text():
    assert listed(np.array(["a", "b"])) == "'a', 'b'"


def test_of_many_values_the_first_are_listed():
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed(range(10**6), 2) == "0, 1, ... (1000000 in all)"


@given(st.text())
def test_no_cell_begins_a_formula(text):
    (row,) = csv.reader(io.StringIO(_csv(cell(text)), newline=""))
    assert not row[0].startswith(tuple("=+-@\t\r")) or float(row[0]) == float(text)
    assert row[0].replace("'", "") == text.replace("'", "")


def _csv(value):
    file = io.StringIO(newline="")
    csv.writer(file).writerow([value, ""])
    return file.getvalue()


def test_numbers_stay_numbers_in_a_cell():
    assert [cell(value) for value in (-1.5, "+3", "1e-3", "-.5", "P-17")] == [
        "-1.5", "+3", "1e-3", "-.5", "P-17",
    ]  # fmt: skip
    assert cell("-1+cmd|' /C calc'!A0") == "'-1+cmd|' /C calc'!A0"


def test_a_formula_after_another_separator_is_none_either():
    assert cell("a;=1+1") == "a;'=1+1"
    assert cell("a\t@x;b") == "a\t'@x;b"
