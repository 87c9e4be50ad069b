"""Files as other people wrote them: lines, JSON, keys; a slip is named with its place."""

import pytest

from modeling_mgvmoe.data.files import check_keys, nearest, read_json, read_json_lines, read_json_object, read_lines


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "file"
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("a\nb", [(1, "a"), (2, "b")]),
        ("a\r\n\r\nb\r\n", [(1, "a"), (2, ""), (3, "b")]),
        ("\ufeffa\n", [(1, "a")]),
        ("a\rb\r", [(1, "a"), (2, "b")]),
        # What Python takes for the end of a line, and posts hold.
        ("a\u2028b\x0cc\x85d\n", [(1, "a\u2028b\x0cc\x85d")]),
        ("a\rb\nc\n", [(1, "a\rb"), (2, "c")]),
        ("", []),
    ],
)
def test_lines(file, content, lines):
    assert list(read_lines(file(content))) == lines


def test_lines_of_no_file_and_of_no_text(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(read_lines(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="file: .*UTF-8"):
        list(read_lines(file(b"\xff\n")))


def test_json(file, tmp_path):
    assert read_json(file('\ufeff{"a": [1]}')) == {"a": [1]}
    assert read_json_object(file("{}")) == {}
    for content, message in (('{"a": {"b": 1, "b": 2}}', "'b'"), ("{", "file"), ("[" * 100_000, "file")):
        with pytest.raises(ValueError, match=message):
            read_json(file(content))
    with pytest.raises(ValueError, match=r"file: .*\[1\]"):
        read_json_object(file("[1]"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_json(tmp_path / "nowhere")


def test_json_lines(file):
    assert list(read_json_lines(file('1\n\n{"a": 2}\n'))) == [(1, 1), (3, {"a": 2})]
    with pytest.raises(ValueError, match="file, line 3: "):
        list(read_json_lines(file("1\n\n{\n")))


def test_keys():
    check_keys({"a": 1, "c": 2}, ["a"], ["b", "c"])
    for content, message in (
        ([], r"\[\]"),
        ({"a": 1, "label": 2}, "'label'.*'labels'"),
        ({"labels": 1}, "'a' must be given, got 'labels'"),
    ):
        with pytest.raises(ValueError, match=message):
            check_keys(content, ["a"], ["labels"])
    assert "'boat'" in nearest("baot", ["bird", "boat"]) and nearest("a", []) == "none is known"
