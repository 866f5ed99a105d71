"""Opening pictures of runs, and telling them in words."""

import dataclasses
import json
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from app.library import Library
from app.pictures import MERGED, Latest, decode, open_picture, reference_view, steps_of, store, variants, view, views
from reslora_sd.runs.reader import read_run
from reslora_sd.runs.run import PictureKey


def pair(made_up_pair):
    return {path.name: read_run(path) for path in made_up_pair}


def test_both_sides_show_the_same_prompt_seed_and_step(made_up_pair):
    left, right = views(pair(made_up_pair), "rocket", 42, "unmerged", 10)
    assert left.image and right.image
    assert left.image.getpixel((0, 0)) == right.image.getpixel((0, 0)) == (10, 60, 42)
    assert left.title == "lora, step 10"
    assert right.alt == 'Picture by reslora_is at step 10, as trained, for the prompt "rocket" with seed 42'


def test_steps_are_those_that_any_run_has(made_up_pair):
    runs = pair(made_up_pair)
    assert steps_of(runs, "rocket", 42, "unmerged") == [5, 10, 15, 20]
    (made_up_pair[1] / "validation" / "step-000010" / "unmerged-01-42.png").unlink()
    changed = {name: read_run(run.path) for name, run in runs.items()}
    assert steps_of(changed, "rocket", 42, "unmerged") == [5, 10, 15, 20]
    missing = view("reslora_is", changed["reslora_is"], "rocket", 42, "unmerged", 10)
    assert missing.image is None and missing.missing == "No picture of reslora_is at step 10"


def test_each_merged_approach_is_a_choice_and_as_exported_means_each_runs_own(real_runs):
    library = Library(list(real_runs.values()))
    runs = library.get(library.names())
    assert variants(runs) == ["unmerged", MERGED, "base", "exact", "input", "least_squares", "none", "weights"]
    left, right, real = views(runs, "red apple", 42, MERGED, 4)
    assert left.image and right.image and real.image and "merged exactly" in left.alt and "least squares" in right.alt
    assert real.image.size == left.image.size and real.alt.startswith(
        'Real picture of the data set for the prompt "red'
    )
    assert reference_view(runs, "no such prompt") is None


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_corrupt_picture_is_told_and_nothing_more(made_up, content):
    (made_up / "validation" / "step-000010" / "unmerged-00-42.png").write_bytes(content)
    found = view("lora", read_run(made_up), "cat face", 42, "unmerged", 10)
    assert found.image is None and "is no whole picture" in found.missing


def test_a_picture_that_was_cut_off_is_told(made_up):
    path = made_up / "validation" / "step-000010" / "unmerged-00-42.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    found = view("lora", read_run(made_up), "cat face", 42, "unmerged", 10)
    assert found.image is None and "is no whole picture" in found.missing


def test_a_pipe_and_a_file_that_is_too_large_are_told_before_they_are_read(made_up):
    path = made_up / "validation" / "step-000010" / "unmerged-00-42.png"
    os.truncate(path, 20_000_000_000)  # it has holes: no room is used
    found = view("lora", read_run(made_up), "cat face", 42, "unmerged", 10)
    assert found.image is None and "has 20000 MB, more than the 150 MB" in found.missing
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"unmerged-00-42.png' is no file"):
        open_picture(path.parent, path.name)


def test_a_link_that_leads_out_of_the_run_is_refused(made_up):
    secret = made_up.parent / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    path = made_up / "validation" / "step-000010" / "unmerged-00-42.png"
    path.unlink()
    os.symlink(secret, path)
    found = view("lora", read_run(made_up), "cat face", 42, "unmerged", 10)
    assert found.image is None and "lies outside" in found.missing


def test_real_pictures_outside_the_run_are_refused(made_up):
    Image.new("RGB", (8, 8), "red").save(made_up.parent / "secret.png")
    row = {"prompt": "rocket", "file": "../../secret.png", "seen": "training"}
    (made_up / "validation" / "real.jsonl").write_text(json.dumps(row) + "\n")
    found = reference_view({"lora": read_run(made_up)}, "rocket")
    assert found is not None and found.image is None
    with pytest.raises(ValueError, match="lies outside"):
        open_picture(made_up / "validation", "../../secret.png")


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(side):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")

    with pytest.raises(ValueError, match="bomb"):
        decode(png(60_000), "large.png")
    with pytest.raises(ValueError, match="more than 4096"):
        decode(png(5000), "large.png")


def test_a_picture_that_is_written_again_is_read_again(made_up):
    path = made_up / "validation" / "step-000010" / "unmerged-00-42.png"
    before = open_picture(path.parent, path.name)
    Image.new("RGB", (17, 17), "red").save(path)
    assert open_picture(path.parent, path.name).size != before.size


def test_requests_at_the_same_time_can_store_the_same_picture(tmp_path):
    image = Image.effect_noise((300, 300), 50).convert("RGB")
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda place: store(image, tmp_path / str(place % 4), "x"), range(64)))
    assert all(path.is_file() for path in paths) and not list(tmp_path.rglob("*.tmp"))


def test_a_stored_picture_is_the_same_to_the_last_pixel(tmp_path):
    image = Image.effect_noise((20, 30), 50).convert("RGB")
    with Image.open(store(image, tmp_path, "x")) as stored:
        assert stored.tobytes() == image.tobytes()


def test_base_and_merges_are_named_and_a_run_without_a_merge_shows_its_exact_one(made_up):
    run = read_run(made_up)
    drawn = next(iter(run.pictures.values()))

    def titled(variants, asked):
        keys = [PictureKey("cat face", 42, variant, 20) for variant in variants]
        other = dataclasses.replace(run, pictures=dict.fromkeys(keys, drawn))
        found = view("lora", other, "cat face", 42, asked, 20)
        assert not found.missing
        return found.title

    assert titled(["base"], "base") == "base model, drawn by lora"
    assert titled(["unmerged"], "unmerged") == "lora, step 20"
    assert titled(["exact", "weights"], "weights") == "lora, step 20, merged by weight norms"
    assert titled(["exact"], MERGED) == "lora, step 20, merged exactly"
    assert titled(["exact"], "least_squares") == "lora, step 20, merged exactly, instead of merged by least squares"


def test_decoded_pictures_are_kept_up_to_so_many_bytes_and_the_latest_used_stay():
    kept, one = Latest(3 * 4 * 64), Image.new("RGB", (8, 8))
    for key in "abb":
        kept.put(key, one)
    assert kept.get("a") is one and kept.bytes == 2 * 4 * 64
    for key in "cd":
        kept.put(key, one)
    assert [key for key in "abcd" if kept.get(key)] == ["a", "c", "d"] and kept.bytes == 3 * 4 * 64
    kept.put("large", Image.new("RGB", (100, 100)))
    assert kept.bytes == 0
