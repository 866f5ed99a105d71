"""The command line of reslora-convert."""

from pathlib import Path

import pytest

from reslora_sd.convert.settings import Conversion, ConvertSettings, Inspection, InspectSettings, parse


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("a b --to kohya", ConvertSettings(to="kohya")),
        ("--to kohya a b", ConvertSettings(to="kohya")),
        ("a --fuse BASE b", ConvertSettings(fuse="BASE")),
        ("--overwrite a b", ConvertSettings(overwrite=True)),
        ("--overwrite false a b", ConvertSettings()),
        ("--merge a b", ConvertSettings(merge="best")),
        ("a b --merge", ConvertSettings(merge="best")),
        ("--merge exact a b", ConvertSettings(merge="exact")),
        ("--merge --calibrate a b", ConvertSettings(merge="best", calibrate=True)),
        ("a b --rank 4 --strength=-0.5 --precision fp16", ConvertSettings(rank=4, strength=-0.5, precision="fp16")),
    ],
)
def test_files_and_flags_stand_in_any_order(words, settings):
    assert parse(words.split()) == Conversion(Path("a"), Path("b"), settings)


def test_inspect_takes_one_file():
    assert parse(["inspect", "a"]) == Inspection(Path("a"), InspectSettings())
    assert parse(["inspect", "--json", "a"]) == Inspection(Path("a"), InspectSettings(json=True))
    assert isinstance(parse(["./inspect", "b"]), Conversion)


@pytest.mark.parametrize(
    "words", ["a", "a b c", "inspect", "inspect a b", "a b --too kohya", "a b --json", "inspect a --to kohya"]
)
def test_what_is_no_command_is_refused_with_the_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(words.split())
    assert ended.value.code == 2 and "usage: reslora-convert" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--base x", "belong to --merge"),
        ("--calibrate", "belong to --merge"),
        ("--merge --calibration_samples 4", "belongs to --calibrate"),
        ("--rank 0", "--rank is 0"),
        ("--strength nan", "--strength is nan"),
        ("--fuse base --to kohya", "Run the command twice"),
    ],
)
def test_flags_that_make_no_sense_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        parse(["a", "b", *words.split()])
