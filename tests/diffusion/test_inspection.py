"""`reslora-data inspect`: what it says of made-up photos, and what it refuses."""

import logging

import pytest
from PIL import Image

from reslora_sd.diffusion import data_command
from reslora_sd.diffusion.data_command import InspectSettings, main, parse
from tests.photos import SIZES, make_photos


@pytest.fixture
def photos(tmp_path):
    """All photos at a tenth, one twice, one damaged, one with a very long caption."""
    folder = make_photos(tmp_path / "photos", smaller=10)
    Image.open(folder / "wall.jpg").resize((400, 250)).save(folder / "wall again.png")
    (folder / "wall again.txt").write_text("a copy")
    whole = (folder / "port.jpg").read_bytes()
    (folder / "port.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "land.txt").write_text("a very long land " * 60)
    return folder


def said(folder, capsys, **settings):
    main(folder, InspectSettings(**settings))
    return capsys.readouterr().out.splitlines()


def test_a_report_has_buckets_captions_and_every_picture_to_look_at(photos, capsys):
    lines = said(photos, capsys, resolution=64)
    assert lines[0] == f"{photos}: 9 pictures"
    assert lines[1] == "  trained at 64 pixels, as 6 buckets:"
    counts = {line.split()[0]: int(line.split()[1]) for line in lines[2:8]}
    assert sum(counts.values()) == len(SIZES) and counts["128x32"] == 1
    text = "\n".join(lines[8:])
    assert "captions: " in text and "1 are longer than the model's 24 and are cut, such as" in text
    alike = next(line for line in lines if "look like another" in line)
    assert f"{photos}/wall.txt ({photos}/wall again.txt)" in alike
    assert f"damaged, and left out of all this: 1, such as {photos}/port.txt (" in text and "runcated" in text
    assert f"smaller than the smallest bucket, and enlarged: 2, such as {photos}/icon.txt; {photos}/pano.txt" in text


def test_a_sheet_shows_pictures_as_they_are_trained_on(photos, tmp_path, capsys):
    lines = said(photos, capsys, resolution=64, sheet=str(tmp_path / "sheet.png"))
    assert lines[-1] == f"  sheet: {tmp_path / 'sheet.png'}"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 6 * 128 and sheet.width > 3 * 128
        assert len(set(sheet.convert("RGB").resize((50, 50)).getdata())) > 100


def test_a_config_and_squares_are_told_too(tmp_path, capsys):
    make_photos(tmp_path / "5_rex", "land.jpg", smaller=10, captions=False)
    (tmp_path / "set.toml").write_text('[[folders]]\npath = "5_rex"\n')
    lines = said(tmp_path / "set.toml", capsys, buckets=False)
    assert lines[0] == f"{tmp_path / 'set.toml'}: 1 picture, 5 in an epoch"
    assert lines[1:3] == ["  trained at 64 pixels, as squares:", f"         64x64      1 {'#' * 40}"]
    assert any("cropped by more than 20%: 1, most" in line and "(33%)" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], SystemExit),
        (["look", "x"], SystemExit),
        (["inspect"], SystemExit),
        (["inspect", "a", "b"], SystemExit),
        (["inspect", "a", "--sheets", "b"], SystemExit),
        (["inspect", "a", "--sheet", "b.jpg"], ValueError),
        (["inspect", "a", "--resolution", "0"], ValueError),
    ],
)
def test_other_words_are_refused(words, error, capsys):
    with pytest.raises(error):
        parse(words)


def test_a_model_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"sizes of .* can't be read: .*pretrained_model_name_or_path"):
        main(tmp_path, InspectSettings(pretrained_model_name_or_path=str(tmp_path / "nowhere")))


def test_the_command_says_what_was_left_out(photos, monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    (photos / "alone.txt").write_text("x")
    monkeypatch.setattr("sys.argv", ["reslora-data", "inspect", str(photos)])
    data_command.cli()
    assert "text files without a picture: 1, such as alone.txt" in caplog.text and "10 pictures" in caplog.text
