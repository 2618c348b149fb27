import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.datasets._tables import read_table


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
def test_tables_of_the_standard_library_are_read(tmp_path_factory, header, data):
    import csv

    row = st.lists(cells.map(str.strip), min_size=len(header), max_size=len(header))
    rows = data.draw(st.lists(row.filter(any), min_size=1, max_size=4))
    file = tmp_path_factory.mktemp("t") / "table.csv"
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    table = read_table(file)
    assert [list(row) for row in zip(*table.values(), strict=True)] == rows
    assert table.lines == list(range(2, len(rows) + 2))


def test_compressed_tables_are_the_same(write):
    text = "\ufeffa, b\n1,\n, x y \n"
    for name in ("table.csv", "table.csv.gz"):
        table = read_table(write(text, name))
        assert (table, table.lines) == ({"a": ["1", ""], "b": ["", "x y"]}, [2, 3])


PLAIN = 'path,patient_id,note\na.png,Müller,\nb.png,7,"x, y"\n'


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace("\n", "\n\n\n").encode(),
        PLAIN.replace(",note", ", note ,,").encode(),
        PLAIN.rstrip().encode(),
        PLAIN.replace(",", ";").replace("x;", "x,").encode(),
        PLAIN.replace(",", "\t").replace("x\t", "x,").encode("utf-16"),
        ("sep=;\r\n" + PLAIN.replace(",", ";").replace("x;", "x,")).encode("utf-8-sig"),
        ('"sep=,"\n' + PLAIN).encode(),
        ("sep=\t\n" + PLAIN.replace(",", "\t").replace("x\t", "x,")).encode(),
        '"path";"patient_id";"note"\n"a.png";"Müller";\n"b.png";"7";"x, y"\n'.encode(),
    ],
)
@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_tables_of_spreadsheet_programs_are_read(write, data, name):
    assert read_table(write(data, name)) == {
        "path": ["a.png", "b.png"],
        "patient_id": ["Müller", "7"],
        "note": ["", "x, y"],
    }


def test_unnamed_columns_at_the_end_are_dropped_only_if_empty(write):
    assert read_table(write("a,b,,\n1,2\n3,4,,\n5,6,,,,\n")) == {
        "a": ["1", "3", "5"],
        "b": ["2", "4", "6"],
    }
    with pytest.raises(ValueError, match="row 2: 3 values for the 2 columns 'a', 'b'"):
        read_table(write("a,b,,\n1,2,3\n"))


def test_a_quoted_value_may_contain_commas_and_line_breaks(write):
    table = read_table(write('a,b\n"x, y","1\n2"\nz,3\n'))
    assert (table, table.lines) == ({"a": ["x, y", "z"], "b": ["1\n2", "3"]}, [3, 4])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "needs a header"),
        (",,\n1,2,3\n", "needs a header"),
        ("a,a\n1,2\n", "needs a header with unique column names"),
        ("a,b\n", "has no rows"),
        ("a,b\n1\n", "row 2: 1 value for the 2 columns 'a', 'b'"),
        ("a,b\n1\n2,3\n4,5,6\n", r"row 2 \(and 1 more\): 1 value for the 2 columns 'a', 'b'"),
        (b"a\n1\n\xe9\xff\n", "row 3: this is not UTF-8 text; open it in a spreadsheet program"),
        (b"a\n" + 9000 * b"1\n" + b"\xe9\n2\n", "row 9002: this is not UTF-8 text"),
        ("a\n1\n".encode("utf-16-le"), "row 1: this is not text"),
        ('a\n1\n"x\n', "row 3: a quote is not closed"),
        ('a,b\n"x"y,2\n', "row 2: a quote is not closed, or is followed by text"),
        ("sep=;\na;b\n1;2;3\n", "row 3: 3 values"),
    ],
)
def test_the_error_for_a_malformed_table_names_the_file(write, data, message):
    with pytest.raises(ValueError, match=rf"table\.csv.*{message}"):
        read_table(write(data))


def test_a_table_that_is_not_compressed_or_does_not_exist_is_refused(tmp_path):
    file = tmp_path / "table.csv.gz"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"table\.csv\.gz cannot be read"):
        read_table(file)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")


def test_numbers_are_floats_and_blanks_are_nan(write):
    for text in ("inf", "-1e999"):
        with pytest.raises(ValueError, match=f"row 2: a is '{text}', not a number"):
            read_table(write(f"a\n{text}\n")).numbers("a")
    table = read_table(write("a\n1.5\n\n-2\nx\n"))
    assert table.select([0, 1]).numbers("a").tolist() == [[1.5], [-2]]
    with pytest.raises(ValueError, match="row 5: a is 'x', not a number"):
        table.numbers("a")
    with pytest.raises(ValueError, match="no column 'b'; it has 'a'"):
        table.numbers("b")
