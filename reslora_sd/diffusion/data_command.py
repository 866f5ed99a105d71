"""Looks at pictures before they are trained on: reslora-data inspect FOLDER_OR_CONFIG

    reslora-data inspect my_pictures --resolution 512
    reslora-data inspect set.toml --pretrained_model_name_or_path a_folder_of_sd --sheet sheet.png

Prints how many pictures each bucket has, how long captions are, and which pictures are small, alike or damaged.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import DEFAULT_MODEL
from ..runs.atomic import replacing
from ..training.command import first_words, quiet_libraries, run_command
from ..training.options import check_at_least, option, switch
from ..training.parser import SettingsParser
from .settings import DataSettings

if TYPE_CHECKING:
    from .framing import Sides

_CONFIGS = (".toml", ".yaml", ".yml", ".json")


@dataclass(frozen=True)
class InspectSettings:
    """How pictures would be trained on.

    Raises:
        ValueError: a value is invalid.
    """

    pretrained_model_name_or_path: str = option(str(DEFAULT_MODEL), "Model that they are for: a folder or Hub name.")
    resolution: int | None = option(None, "Pixels of a side (left out: the model's own).")
    buckets: bool | None = switch("Keep the shapes of pictures, in buckets (left out: unless all are square).")
    bucket_step: int | None = option(None, "As for training.")
    bucket_min: int | None = option(None, "As for training.")
    bucket_max: int | None = option(None, "As for training.")
    bucket_upscale: bool = option(False, "As for training.")
    sheet: str | None = option(None, "Write a contact sheet of the pictures as they are trained on to this PNG file.")

    def __post_init__(self) -> None:
        check_at_least(self, 1, ["resolution"])
        if self.sheet is not None and not self.sheet.lower().endswith(".png"):
            raise ValueError(f"--sheet is {self.sheet!r:.80}. Name a file that ends in .png.")

    def data(self, target: Path) -> DataSettings:
        """The data settings of a training on a folder, or on what a config file describes."""
        is_config = target.suffix.lower() in _CONFIGS
        names = ("resolution", "buckets", "bucket_step", "bucket_min", "bucket_max", "bucket_upscale")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        given["dataset_config" if is_config else "train_data_dir"] = str(target)
        return DataSettings(**given)


def make_parser() -> SettingsParser:
    """The flags of `reslora-data inspect`; their help texts are the reference."""
    parser = SettingsParser([InspectSettings], "Says what is to be known of pictures before they are trained on.")
    parser.prog = "reslora-data inspect"
    parser.usage = "%(prog)s FOLDER_OR_CONFIG [flags]"
    return parser


def parse(argv: Sequence[str] | None = None) -> tuple[Path, InspectSettings]:
    """The command line, checked.

    Raises:
        ValueError: a value is invalid.
        SystemExit: argparse's own, for flags that aren't there, and a missing or superfluous folder.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    if words[:1] != ["inspect"] and not {"-h", "--help"} & set(words):
        parser.error(f"the only command is inspect, but {words[:1] or 'nothing'} came")
    (settings,), targets = parser.parse_known(words[1:] if words[:1] == ["inspect"] else words)
    unknown = [word for word in targets if word.startswith("-")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if len(targets) != 1:
        parser.error(f"FOLDER_OR_CONFIG is wanted, but {len(targets)} came: {' '.join(targets)}")
    return Path(targets[0]), settings


def main(target: Path, settings: InspectSettings) -> None:
    """Inspects, prints, and writes the sheet."""
    from .data import load_pictures
    from .framing import framing_by
    from .inspection import inspect

    sides, resolution, tokenizer = _model(settings.pretrained_model_name_or_path)
    data = settings.data(target)
    images, damaged = load_pictures(data).openable()
    if not len(images):
        raise ValueError(f"None of the pictures of {target} can be opened: {'; '.join(list(damaged)[:3])}.")
    framing = framing_by(data, settings.resolution or resolution, images, sides)
    found = inspect(images, framing, tokenizer, damaged, settings.sheet is not None)
    print("\n".join(found.lines()))
    sheet = found.sheet()
    if settings.sheet and sheet:
        with replacing(Path(settings.sheet)) as temporary:
            sheet.save(temporary, format="PNG")
        print(f"  sheet: {settings.sheet}")


def _model(name: str) -> tuple[Sides, int, Any]:
    """What of a model shapes its data: sides, resolution and tokenizer. Its weights aren't read.

    Raises:
        ValueError: it can't be read.
    """
    import diffusers
    import transformers

    from .framing import Sides

    try:
        vae = diffusers.AutoencoderKL.load_config(name, subfolder="vae")
        unet = diffusers.UNet2DConditionModel.load_config(name, subfolder="unet")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(name, subfolder="tokenizer")
        multiple = 2 ** (len(vae["block_out_channels"]) - 1)
        sides = Sides(multiple, multiple * 2 ** (len(unet["block_out_channels"]) - 1))
        return sides, int(unet["sample_size"] * multiple), tokenizer
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = first_words(error)
        raise ValueError(
            f"The sizes of {name!r} can't be read: {first} Give --pretrained_model_name_or_path the folder of a "
            "pipeline, or a name on the Hub."
        ) from error


def cli() -> None:
    """The command reslora-data."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("reslora_sd").setLevel(logging.INFO)
    quiet_libraries()
    run_command(lambda: main(*parse()))


if __name__ == "__main__":
    cli()
