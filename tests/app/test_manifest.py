"""What a browser needs to move through the steps by itself."""

import json

from app.library import Library
from app.manifest import MOST_SIDES, STEP, manifest, nothing, spread, stamp
from app.selection import Asked, select
from app.synthetic import make_run
from reslora_sd.runs.reader import read_run


def shown(paths, **asked):
    library = Library(paths)
    runs = library.get(library.names())
    chosen = select({key: runs[name] for key, name in library.keys().items()}, Asked(**asked))
    return manifest(runs, chosen, library.token), library


def test_each_step_has_an_address_where_its_picture_is_listed(made_up_pair):
    found, library = shown(made_up_pair)
    assert found["steps"] == [5, 10, 15, 20] and found["span"] == "5 to 20" and found["why"] == ""
    assert [row["name"] for row in found["rows"]] == ["LoRA", "ResLoRA (input)"] and found["sides"] == 2
    assert found["pair"] == [0, 1] and found["rows"][0]["key"] == library.token(made_up_pair[0])
    for row in found["rows"]:
        assert STEP in row["title"] and STEP in row["alt"] and STEP in row["missing"]
    picture = made_up_pair[0] / "validation" / "step-000010" / "unmerged-00-42.png"
    status = picture.stat()
    assert found["rows"][0]["files"][1] == f"{stamp(status.st_mtime_ns, status.st_size)}/step-000010/{picture.name}"
    picture.unlink()
    assert shown(made_up_pair)[0]["rows"][0]["files"][1] is None  # the index doesn't count what isn't there


def test_a_run_beyond_the_sides_has_a_row_where_it_is_b(tmp_path):
    paths = [make_run(tmp_path / f"run{number}", steps=1, side=1) for number in range(MOST_SIDES + 2)]
    found, library = shown(paths, b=list(Library(paths).keys())[-1])
    assert found["sides"] == MOST_SIDES and len(found["rows"]) == MOST_SIDES + 1
    assert found["pair"] == [0, MOST_SIDES] and found["rows"][-1]["name"] == list(library.names())[-1]


def test_where_there_are_no_pictures_it_says_why(made_up):
    run = read_run(made_up)
    assert manifest({}, select({}, Asked()), str)["why"] == "Choose a run above"
    (made_up / "validation" / "index.jsonl").write_text("")
    empty = read_run(made_up)
    found = manifest({"lora": empty}, select({"lora": empty}, Asked()), str)
    assert found == nothing("The chosen runs have no such pictures yet")
    chosen = select({"lora": run}, Asked())
    assert manifest({"lora": empty}, chosen, str)["why"] == "The chosen runs have no such pictures yet"
    assert json.loads(json.dumps(manifest({"lora": run}, chosen, str)))["steps"] == [5, 10, 15, 20]


def test_steps_are_thinned_out_with_the_first_and_the_last_among_them():
    assert spread([3, 5], 2) == [3, 5]
    assert spread(range(101), 3) == [0, 50, 100]
    assert stamp(1, 23) != stamp(12, 3) and len(stamp(1, 23)) == 12
