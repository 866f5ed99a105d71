"""Icon sets as captioned drawings, from a made-up Iconify package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reslora_sd.pretrain import make_drawings
from reslora_sd.pretrain.data import load_drawings

SQUARE = '<path fill="#f00" d="M0 0h8v8H0z"/>'


def package(folder: Path, icons: object) -> Path:
    folder.mkdir()
    (folder / "icons.json").write_text(json.dumps({"prefix": "made", "width": 16, "height": 16, "icons": icons}))
    return folder


def make(*flags: object) -> None:
    make_drawings.main(make_drawings.parse_settings([str(flag) for flag in flags]))


def test_icons_that_are_emoji_become_drawings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    icons = {"rocket": {"body": SQUARE}, "no-emoji": {"body": SQUARE}, "owl": {"body": SQUARE, "hidden": True}}
    home = package(tmp_path / "icons", icons)
    make("--icons", f"made={home}", "--output_dir", tmp_path / "data")
    drawings = load_drawings(tmp_path / "data", 64)
    assert (drawings.captions, drawings.sets, drawings.names) == (("rocket",), ("made",), ("1f680",))
    assert (
        drawings.pictures[0, :, 8, 8].tolist() == [255, 0, 0] and drawings.pictures[0, :, 60, 60].tolist() == [255] * 3
    )
    capsys.readouterr()
    make("--icons", f"made={home}", "--output_dir", tmp_path / "again", "--known", tmp_path / "data")
    assert "made: no new drawing" in capsys.readouterr().out and not (tmp_path / "again").exists()


def test_names_are_written_as_icon_sets_write_them() -> None:
    assert make_drawings.icon_name("one o\u2019clock") == "one-oclock"
    assert make_drawings.icon_name("Cat face!") == "cat-face"


@pytest.mark.parametrize("icons", [[], {"rocket": "path"}, {"rocket": {}}])
def test_another_file_is_refused(tmp_path: Path, icons: object) -> None:
    with pytest.raises(ValueError, match="isn't an icon set of Iconify"):
        make("--icons", f"made={package(tmp_path / 'icons', icons)}", "--output_dir", tmp_path / "data")


def test_flags_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no icons\.json"):
        make("--icons", f"made={tmp_path}", "--output_dir", tmp_path)
    with pytest.raises(ValueError, match="Write SET=FOLDER"):
        make("--icons", "made", "--output_dir", tmp_path)
    with pytest.raises(ValueError, match="--icons is missing"):
        make("--output_dir", tmp_path)
    with pytest.raises(ValueError, match="--output_dir is missing"):
        make("--icons", "made=here")
