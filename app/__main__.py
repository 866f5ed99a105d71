"""Opens the page over run folders: python -m app [RUN ...]"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

DEMO = (Path("runs/lora"), Path("runs/reslora_is"))


def make_parser() -> argparse.ArgumentParser:
    """The flags; their help texts are the reference."""
    parser = argparse.ArgumentParser(
        prog="reslora-page" if __package__ == "reslora_sd.app" else "python -m app",
        description="Shows training runs side by side, step by step, in the browser.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help=f"run folders, or folders of them (left out: {' and '.join(map(str, DEMO))}, which make demo leaves)",
    )
    add(
        "--trainings",
        type=Path,
        default=Path("runs/here"),
        metavar="FOLDER",
        help="where trainings that the page starts go (default: %(default)s)",
    )
    _add_folders(parser)
    _add_access(parser)
    return parser


def _add_folders(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--allow",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders outside the runs that run.json may name for its base model and its data",
    )
    add(
        "--loras",
        type=Path,
        metavar="FOLDER",
        help="folder of LoRA files made elsewhere (diffusers, kohya, PEFT), to draw with under Try it",
    )
    add(
        "--export",
        type=Path,
        metavar="OUT",
        help="write a comparison of the runs instead of opening the page: one file that needs no server where OUT ends "
        "in .html, else a folder that is a Space for the Hugging Face Hub",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    """Flags on who reaches the page."""
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on; others than 127.0.0.1 let everybody in who reaches it (default: %(default)s)",
    )
    add("--port", type=int, help="(left out: the first free one from 7860)")
    add(
        "--allow_host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names by which browsers may call the page, such as a proxy's; localhost, numeric addresses and, where "
        "others reach the page, this machine's name are answered always",
    )
    add(
        "--password",
        help="asked of every browser, with any user name; better in the variable RESLORA_PAGE_PASSWORD, which other "
        "users of this machine don't see",
    )


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked.

    Raises:
        ValueError: a folder isn't there, or without folders the demo's aren't.
    """
    args = make_parser().parse_args(argv)
    missing = [path for path in args.runs if not path.is_dir()]
    if missing:
        raise ValueError(
            f"There is no folder {missing[0]}. Give the --output_dir of a training, or a folder of several."
        )
    if not args.runs:
        args.runs = [path for path in DEMO if path.is_dir()]
        if not args.runs:
            raise ValueError(
                f"There are no runs in {DEMO[0]} and {DEMO[1]}. Make them with `make demo`, or name run folders."
            )
    if args.loras is not None and not args.loras.is_dir():
        raise ValueError(f"--loras names {args.loras}, which is no folder.")
    if args.port is not None and not 0 < args.port < 65536:
        raise ValueError(f"--port is {args.port}. It must be from 1 to 65535.")
    args.password = args.password if args.password is not None else os.environ.get("RESLORA_PAGE_PASSWORD")
    if args.password == "":
        raise ValueError("The password is empty. Give one, or leave out --password and RESLORA_PAGE_PASSWORD.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and serves until Ctrl-C."""
    try:
        args = parse_arguments(argv)
        if args.export is not None:
            from .exporting import export

            print(export(args.runs, args.export))
            return
        from .server import serve

        serve(
            args.runs,
            args.trainings,
            args.allow,
            args.host,
            args.port,
            names=args.allow_host,
            password=args.password,
            loras=args.loras,
        )
    except ImportError as error:
        sys.exit(f"Error: {error}. The page needs: pip install 'reslora-sd[app]'")
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
