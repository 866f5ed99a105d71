"""Where the pictures of a run come from: a folder or data set by flags, or several by `--dataset_config`. No torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ..runs.names import BUNDLED
from ..training.config_file import convert, read_table, wanted
from ..training.options import check_at_least, check_shares
from .settings import DataSettings
from .wording import WORDING_FLAGS, Wording

CaptionsFrom = Literal["auto", "txt", "caption", "metadata", "folder"]
MOST_REPEATS = 1000
_NUMBERED = re.compile(r"([1-9][0-9]{0,3})_(.+)")
_FOLDERS = "folders"
_EXAMPLE = 'Write, for example, in TOML: [[folders]], and below it path = "photos" and repeats = 2'


@dataclass(frozen=True)
class Source:
    """A folder of pictures or a data set of the Hub, and how it is used. Its fields are the keys of a config file.

    Raises:
        ValueError: a value is out of range, or two contradict each other.
    """

    path: str | None = None
    """A folder of pictures, or a parquet file; as seen from the config file."""
    dataset_name: str | None = None
    """A data set of the Hub instead."""
    dataset_config_name: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    captions: CaptionsFrom = "auto"
    """Where captions stand: text files `.txt` or `.caption`, a metadata file, or the name of the folder."""
    repeats: int | None = None
    """How often its pictures are met in an epoch; left out: 1, or what kohya's folder names say."""
    trigger_word: str | None = None
    """A word that begins each caption which doesn't have it."""
    prefix: str = ""
    """What stands before each caption, as it is."""
    resolution: int | None = None
    flip: bool | None = None
    mask: str | None = None
    """A folder of masks, for `--masked_loss`; as seen from the config file."""
    is_reg: bool = False
    """Whether they are pictures of the class, which keep what the model knows of it (kohya's name)."""
    shuffle_caption: bool | None = None
    keep_tokens: int | None = None
    caption_dropout_rate: float | None = None
    caption_tag_dropout_rate: float | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 1, ["repeats", "resolution"])
        check_at_least(self, 0, ["keep_tokens"])
        check_shares(self, ["caption_dropout_rate", "caption_tag_dropout_rate"])
        if self.repeats is not None and self.repeats > MOST_REPEATS:
            raise ValueError(f"--repeats is {self.repeats}. It must be {MOST_REPEATS} or less.")
        if self.trigger_word is not None and not self.trigger_word.strip():
            raise ValueError("--trigger_word is empty. Write a word, or leave it out.")

    @property
    def class_name(self) -> str | None:
        """What the folder's own name says where it is one of kohya's, such as `10_rex`."""
        path = Path(self.path or "")
        numbered = None if _is_tar(path) else numbered_name(path.name)
        return numbered[1] if numbered else None

    def wording(self, flags: Wording) -> Wording | None:
        """How its captions change, over what the flags say; `None` for as these say."""
        given = {name: getattr(self, name) for name in (*WORDING_FLAGS, "trigger_word")}
        given = {name: value for name, value in given.items() if value is not None}
        own = replace(flags, **given)
        return own if own != flags else None

    def worded(self, captions: list[str]) -> list[str]:
        """The captions of a picture with what is to stand before them."""
        return [self._worded(caption) for caption in captions]

    def _worded(self, caption: str) -> str:
        word = (self.trigger_word or "").strip()
        if word and not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE):
            caption = f"{word}, {caption}"
        return self.prefix + caption


def numbered_name(name: str) -> tuple[int, str] | None:
    """Repeats and class of a folder's name as kohya's scripts read it: 10 and "rex" of `10_rex`.

    Numbers above `MOST_REPEATS`, dates, and numbers with leading zeros order folders and repeat nothing.
    """
    found = _NUMBERED.fullmatch(name)
    if not found or int(found[1]) > MOST_REPEATS or re.fullmatch(r"[\d_-]+", found[2]):
        return None
    return int(found[1]), found[2].replace("_", " ").strip() or found[2]


def _is_tar(path: Path) -> bool:
    """Whether it is a tar file. Its name says neither repeats nor class: `8_0001.tar` is one of many."""
    return path.suffix.lower() == ".tar" and path.is_file()


def sources_of(data: DataSettings) -> list[Source]:
    """What the flags or their config file describe.

    Raises:
        ValueError: as `read_sources`.
    """
    if data.dataset_config is not None:
        found = read_sources(Path(data.dataset_config))
        word = data.trigger_word
        return [one if one.is_reg or one.trigger_word else replace(one, trigger_word=word) for one in found]
    names = ("dataset_name", "dataset_config_name", "image_column", "caption_column", "trigger_word")
    given = {name: getattr(data, name) for name in names}
    return [Source(path=data.train_data_dir, mask=data.mask_data_dir, **given)]


def check_used(data: DataSettings) -> None:
    """Whether a training uses what flags and config file say together; each may say it alone.

    Raises:
        ValueError: masks without `--masked_loss`, or a weight of the class without pictures of it.
    """
    if data.dataset_config is None:
        return
    sources = sources_of(data)
    masks = [source.mask for source in sources if source.mask]
    if masks and not data.masked_loss:
        raise ValueError(
            f"{data.dataset_config} has mask = {masks[0]!r:.200}, which does nothing without --masked_loss. Add this "
            "flag, or take 'mask' out."
        )
    if data.prior_loss_weight != 1 and not (data.with_prior_preservation or any(one.is_reg for one in sources)):
        raise ValueError(
            f"--prior_loss_weight is {data.prior_loss_weight}, and no folder of {data.dataset_config} is is_reg. Write "
            "is_reg = true into that of the class, or leave the flag out."
        )


def class_source(data: DataSettings) -> Source | None:
    """The folder of `--class_data_dir`. With `--class_prompt`, what stands beside its pictures doesn't count."""
    if not data.with_prior_preservation:
        return None
    return Source(path=data.class_data_dir, captions="folder" if data.class_prompt else "auto", is_reg=True)


def read_sources(file: Path) -> list[Source]:
    """The folders of a TOML, YAML or JSON file: a table for each below `folders`, and keys for all of them above it.

    Raises:
        ValueError: the file can't be read, a key isn't known, or a value is invalid; the message names file and key.
    """
    table = read_table(file, "--dataset_config", "no table of folders", _EXAMPLE)
    listed = table.pop(_FOLDERS, None)
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f"{file} has no list of tables named {_FOLDERS!r}. {_EXAMPLE}.")
    shared = _values(table, str(file), (_FOLDERS,))
    for name in ("path", "dataset_name", "is_reg"):
        if name in shared:
            raise ValueError(f"{file}: {name!r} stands above the folders. Write it into one of {_FOLDERS!r}.")
    found = []
    for number, one in enumerate(listed, 1):
        where = f"{file}, folder {number}"
        own = _values(one, where)
        given = {name: value for name, value in shared.items() if name != "trigger_word" or not own.get("is_reg")}
        found.append(_source({**given, **own}, where, file.parent))
    if all(one.is_reg for one in found):
        raise ValueError(f"{file}: all {_FOLDERS} are is_reg, and none is left to be learned. Write one without.")
    return found


def _source(values: Mapping[str, Any], where: str, folder: Path) -> Source:
    try:
        source = Source(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('--')}") from error
    if (source.path is None) == (source.dataset_name is None):
        raise ValueError(f"{where}: write either 'path' or 'dataset_name'.")
    if source.dataset_name in BUNDLED:
        raise ValueError(f"{where}: dataset_name {source.dataset_name} is not for a config file. Write --dataset_name.")
    if source.path is None and source.mask is not None:
        raise ValueError(f"{where}: 'mask' is for pictures of a folder, not of a data set of the Hub. Leave it out.")
    if source.path is None:
        return source
    path = folder / Path(source.path).expanduser()
    own = None if _is_tar(path) else numbered_name(Path(source.path).name)
    repeats = own[0] if own and source.repeats is None else source.repeats
    mask = source.mask and str(folder / Path(source.mask).expanduser())
    return replace(source, path=str(path), mask=mask, repeats=repeats)


def _values(table: Mapping[str, Any], where: str, others: tuple[str, ...] = ()) -> dict[str, Any]:
    """The table with its values as the fields' types."""
    hints = get_type_hints(Source)
    known = [field.name for field in fields(Source)]
    found = {}
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), [*known, *others], 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(known)}."
            raise ValueError(f"{where}: {name!r:.80} is no key. {hint}")
        try:
            found[name] = convert(hints[name], value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {name} is {value!r:.80}. It must be {wanted(hints[name])}.") from error
    return found
