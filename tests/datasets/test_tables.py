import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.datasets._tables import numbers, read_table


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="table.csv"):
        file = tmp_path / name
        data = text.encode() if isinstance(text, str) else text
        file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return file

    return write_file


names = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)
cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\n", exclude_categories=["C"]))


@given(names, st.data())
def test_what_the_standard_library_writes_is_read(tmp_path_factory, header, data):
    import csv

    row = st.lists(cells.map(str.strip), min_size=len(header), max_size=len(header))
    rows = data.draw(st.lists(row.filter(any), min_size=1, max_size=4))
    file = tmp_path_factory.mktemp("t") / "table.csv"
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    table, lines = read_table(file)
    assert [list(row) for row in zip(*table.values(), strict=True)] == rows
    assert lines == list(range(2, len(rows) + 2))


def test_packed_tables_are_the_same(write):
    text = "\ufeffa, b\n1,\n, x y \n"
    expected = ({"a": ["1", ""], "b": ["", "x y"]}, [2, 3])
    assert read_table(write(text)) == read_table(write(text, "table.csv.gz")) == expected


def test_nameless_columns_at_the_end_are_dropped_only_if_empty(write):
    assert read_table(write("a,b,,\n1,2\n3,4,,\n5,6,,,,\n"))[0] == {
        "a": ["1", "3", "5"],
        "b": ["2", "4", "6"],
    }
    with pytest.raises(ValueError, match="row 2: 3 values for the 2 columns a, b"):
        read_table(write("a,b,,\n1,2,3\n"))


def test_a_value_within_quotes_may_have_commas_and_lines(write):
    assert read_table(write('a,b\n"x, y","1\n2"\nz,3\n')) == (
        {"a": ["x, y", "z"], "b": ["1\n2", "3"]},
        [3, 4],
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "needs a header"),
        (",,\n1,2,3\n", "needs a header"),
        ("a,a\n1,2\n", "needs a header of different column names"),
        ("a,b\n", "has no rows"),
        ("a,b\n1\n", "row 2: 1 values for the 2 columns a, b"),
        (b"a\n\xff\xfe\n", "cannot be read as a UTF-8 CSV"),
        ('a\n"x\n', "cannot be read as a UTF-8 CSV"),
    ],
)
def test_what_is_no_table_names_the_file(write, data, message):
    with pytest.raises(ValueError, match=rf"table\.csv.*{message}"):
        read_table(write(data))


def test_what_is_not_packed(tmp_path):
    file = tmp_path / "table.csv.gz"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"table\.csv\.gz cannot be read"):
        read_table(file)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")


def test_numbers(write):
    file = write("a\n1.5\n\n-2\nx\n")
    table, lines = read_table(file)
    assert numbers({"a": table["a"][:2]}, "a", file, lines[:2]).tolist() == [1.5, -2]
    with pytest.raises(ValueError, match="row 5: a is 'x', not a number"):
        numbers(table, "a", file, lines)
    with pytest.raises(ValueError, match="no column 'b'; it has a"):
        numbers(table, "b", file, lines)
