"""The command line of the page."""

import pytest

from app.__main__ import main, parse_arguments
from app.server import is_loopback


def test_without_runs_those_of_the_demo_are_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no runs in runs/lora and runs/reslora_is. Make them with `make demo`"):
        parse_arguments([])
    (tmp_path / "runs" / "lora").mkdir(parents=True)
    assert [str(path) for path in parse_arguments([]).runs] == ["runs/lora"]


def test_it_listens_on_loopback_unless_told_otherwise(tmp_path):
    args = parse_arguments([str(tmp_path)])
    assert args.host == "127.0.0.1" and is_loopback(args.host)
    assert not is_loopback(parse_arguments([str(tmp_path), "--host", "0.0.0.0"]).host)


def test_a_folder_that_is_not_there_or_a_wrong_port_ends_with_a_clear_message(tmp_path):
    with pytest.raises(SystemExit, match="Error: There is no folder nowhere"):
        main(["nowhere"])
    with pytest.raises(SystemExit, match="Error: --port is 70000"):
        main([str(tmp_path), "--port", "70000"])
