"""Real pictures beside the drawn ones."""

from PIL import Image

from reslora_sd.diffusion.data import load_images
from reslora_sd.diffusion.reference_pictures import save_reference_pictures
from reslora_sd.diffusion.settings import DataSettings
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.jsonl import read_jsonl


def folder_of(path, **more):
    return DataSettings(train_data_dir=str(path), **more)


def test_the_picture_whose_caption_is_the_prompt_is_saved_with_what_saw_it(picture_folder, tmp_path):
    training, held_out = load_images(folder_of(picture_folder)).split(2, seed=0)
    seen, kept = training.captions[0][0], held_out.captions[0][0]
    run = RunFolder(tmp_path / "run")
    save_reference_pictures(run, [seen.upper(), "nothing like it", f" {kept} "], training, held_out, 32)
    rows = read_jsonl(run.index_path.parent / "real.jsonl")
    assert rows == [
        {"prompt": seen.upper(), "file": "real/00.png", "seen": "training"},
        {"prompt": f" {kept} ", "file": "real/02.png", "seen": "held out"},
    ]
    with Image.open(run.index_path.parent / "real/00.png") as picture:
        assert picture.size == (32, 32)
        assert picture.getpixel((5, 5)) == training.image(0).convert("RGB").getpixel((5, 5))


def test_a_drawing_outside_the_sample_is_found_among_all_of_openmoji(tmp_path):
    images = load_images(DataSettings(max_train_samples=2), resolution=16)
    run = RunFolder(tmp_path / "run")
    save_reference_pictures(run, ["red apple"], images, None, 16)
    assert read_jsonl(run.index_path.parent / "real.jsonl")[0]["seen"] == "neither"
