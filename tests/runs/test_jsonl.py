"""JSON that a kill, a full disk or an editor damaged."""

import json
import random

import pytest

from reslora_sd.runs.jsonl import MOST_BYTES, append_row, read_object, read_rows, write_rows


def rows_and_notes(path):
    notes: list[str] = []
    return list(read_rows(path, notes.append)), notes


def test_rows_come_back_with_their_line_numbers(tmp_path):
    path = tmp_path / "log.jsonl"
    write_rows(path, [{"step": 1, "prompt": "é\u2028\x85 two"}, {"step": 2}])
    append_row(path, {"step": 3})
    assert rows_and_notes(path) == (
        [(1, {"step": 1, "prompt": "é\u2028\x85 two"}), (2, {"step": 2}), (3, {"step": 3})],
        [],
    )
    assert b"\r" not in path.read_bytes()


@pytest.mark.parametrize("line", ["[1]", "3", '"text"', "null", "{", '{"step": }', "[" * 100_000, "1" * 5000, "\x00"])
def test_a_line_that_is_no_object_is_left_out_and_told_with_its_number(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n\n{{"step": 2}}\n', encoding="utf-8")
    rows, notes = rows_and_notes(path)
    assert rows == [(1, {"step": 1}), (4, {"step": 2})]
    assert len(notes) == 1 and notes[0].startswith("log.jsonl, line 2 is broken: ")


def test_a_last_line_without_its_end_is_told_apart(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st', encoding="utf-8")
    assert rows_and_notes(path) == (
        [(1, {"step": 1})],
        ["The last line of log.jsonl is cut off, or still being written; left out."],
    )


def test_what_json_or_utf8_cannot_hold_is_cleaned(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": NaN, "b": [-Infinity, 1e999], "\\ud800": "\\udfff!"}\n', encoding="utf-8")
    rows, notes = rows_and_notes(path)
    assert rows == [(1, {"a": None, "b": [None, None], "?": "?!"})] and not notes
    json.dumps(rows, allow_nan=False)


def test_any_bytes_are_read_without_an_error(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = b"".join(b'{"step": %d, "loss": 0.5, "prompt": "caf\xc3\xa9"}\n' % step for step in range(20))
    for seed in range(300):
        source = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(source.randint(1, 40)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        path.write_bytes(bytes(damaged[: source.randrange(len(damaged))]))
        rows, _ = rows_and_notes(path)
        assert all(isinstance(row, dict) for _, row in rows)
        read_object(path, lambda _: None)


def test_files_that_are_missing_huge_or_folders_are_told(tmp_path):
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    for name, words in (("none", "There is no none."), ("folder", "can't be read"), ("huge", "has 64 MB")):
        for read in (lambda path, tell: list(read_rows(path, tell)), read_object):
            notes: list[str] = []
            assert not read(tmp_path / name, notes.append)
            assert len(notes) == 1 and words in notes[0]


def test_nan_is_refused_and_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "log.jsonl"
    append_row(path, {"step": 1})
    for write in (append_row, lambda path, row: write_rows(path, [row])):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(path, {"loss": float("nan")})
    assert path.read_text() == '{"step": 1}\n'


def test_an_object_is_read_or_told(tmp_path):
    path = tmp_path / "run.json"
    for text, words in (("[1]", "holds no JSON object"), ("{", "is no JSON")):
        path.write_text(text)
        notes: list[str] = []
        assert read_object(path, notes.append) == {} and words in notes[0]
    path.write_text('{"steps": 4}')
    assert read_object(path, pytest.fail) == {"steps": 4}
