"""Prior preservation: pictures of the class are met as often as the others, evenly, and weigh what they should."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image

from reslora_sd import PlainLoRA
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.diffusion import class_pictures, export
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.batches import training_batches
from reslora_sd.diffusion.data import load_split
from reslora_sd.diffusion.emphasis import Emphasis
from reslora_sd.diffusion.framing import framing_of
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.order import BucketOrder
from reslora_sd.diffusion.preparing import check_adapters
from reslora_sd.diffusion.prior import balanced
from reslora_sd.diffusion.settings import DataSettings
from reslora_sd.diffusion.starting import Start
from reslora_sd.runs.jsonl import read_jsonl

CLASS = "a colour"


def make(folder, count, size=(16, 16), start=0):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (10 * (start + number), 200, 30)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"other {number}")
    return folder


@pytest.mark.parametrize(
    ("subject", "known"), [([1] * 5, [1] * 12), ([2, 1], [1]), ([3] * 4, [1] * 5), ([1], [2, 4]), ([1, 9], [1, 1, 8])]
)
def test_both_kinds_are_met_equally_often_each_in_its_own_proportions(subject, known):
    mine, theirs = balanced(subject, known)
    assert sum(mine) == sum(theirs) and all(count >= 1 for count in theirs)
    assert len({count / repeats for count, repeats in zip(mine, subject, strict=True)}) == 1
    exact = [repeats * sum(theirs) / sum(known) for repeats in known]
    assert all(abs(count - wanted) < 1 for count, wanted in zip(theirs, exact, strict=True))


def test_a_batch_has_as_many_of_both_as_its_bucket():
    known = frozenset(range(6, 12))
    buckets = [list(range(12)), [20, 21, 22, 30], [40, 41]]
    order = BucketOrder(buckets, 4, 3, known | {30})
    for step in range(60):
        rows = order.rows(step)
        of_class = sum(row in known or row == 30 for row in rows)
        assert of_class == {0: 2, 20: 1, 40: 0}[0 if rows[0] < 12 else 20 if rows[0] < 40 else 40]
    met = Counter(row for step in range(60) for row in order.rows(step) if row < 12)
    assert max(met.values()) - min(met.values()) <= 1
    alone = [BucketOrder([list(range(4))], 1, 3, {2, 3}).rows(step)[0] > 1 for step in range(8)]
    assert alone == [False, True] * 4


def test_the_class_has_its_weight_and_a_mask_doesnt_change_a_pictures(tmp_path):
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, :2] = 1
    weights = Emphasis(True, 0.5, 0.25).weights([False, True, True], [mask, None, mask])
    assert weights is not None and weights.shape == (3, 1, 4, 4)
    torch.testing.assert_close(weights.mean((1, 2, 3)), torch.tensor([1.0, 0.25, 0.25]))
    assert weights[0, 0, 0, 0] == 2 * weights[0, 0, 3, 3] and weights[1].unique().numel() == 1
    assert Emphasis().weights([False, True], [None, None]) is None
    nothing = Emphasis(True).weights([False], [torch.zeros(1, 2, 2)])
    assert nothing is not None and not nothing.any()


@pytest.fixture
def described(tmp_path, picture_folder):
    """Eight pictures to learn, and five of the class in a folder of kohya's kind."""
    make(tmp_path / "1_shade", 5)
    text = f'trigger_word = "sks"\n[[folders]]\npath = "{picture_folder.name}"\n'
    (tmp_path / "set.toml").write_text(text + '[[folders]]\npath = "1_shade"\nis_reg = true\n')
    return tmp_path / "set.toml"


def test_folders_of_the_class_are_never_kept_out_and_get_no_trigger_word(described, tiny_pipeline_folder):
    words = ["--dataset_config", str(described), "--validation_samples", "6", "--train_batch_size", "4"]
    settings = parse_settings([*words, "--prior_loss_weight", "0.5"])
    split = load_split(settings, 16)
    parts = load_parts(str(tiny_pipeline_folder))
    framing = framing_of(settings.data, 16, split.training, parts)
    assert split.kept_out is not None and not any(split.kept_out.priors)
    assert split.training.priors == [False] * 2 + [True] * 5 and split.training.repeats == [3, 3, 1, 1, 1, 1, 2]
    assert [caption.startswith("sks, ") for (caption,) in split.training.captions] == [True] * 2 + [False] * 5
    assert all(caption.startswith("sks") for caption in split.training.some_captions(9))
    said = export._of_the_data(split.training, framing)
    assert (said["ss_num_train_images"], said["ss_num_reg_images"]) == ("6", "6") and "other" not in str(said)
    batch = training_batches(settings, parts, split.training, framing, quiet=True)(0)
    assert batch.weights is not None and sorted(batch.weights.flatten().tolist()) == [0.5, 0.5, 1, 1]


def test_a_file_with_the_class_alone_or_above_the_folders_is_refused(described):
    text = described.read_text()
    for changed, words in (
        ("is_reg = true\n" + text.replace("is_reg = true", ""), "'is_reg' stands above"),
        (text.replace('path = "pictures"', 'path = "pictures"\nis_reg = true'), "none is left to be learned"),
    ):
        described.write_text(changed)
        with pytest.raises(ValueError, match=words):
            load_split(parse_settings(["--dataset_config", str(described)]), 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--class_data_dir", "a"], "--class_data_dir is given without --with_prior_preservation"),
        (["--with_prior_preservation"], "needs --class_data_dir"),
        (["--with_prior_preservation", "--class_data_dir", "a", "--num_class_images", "3"], "needs --class_prompt"),
        (["--prior_loss_weight", "2"], "--prior_loss_weight does nothing without"),
        (["--unmasked_weight", "0.5"], "--unmasked_weight is given without --masked_loss"),
        (["--masked_loss", "--mask_data_dir", "a", "--dataset_config", "b"], "write 'mask' into that file"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        parse_settings(words)


@pytest.mark.parametrize(
    ("name", "words"), [("rows.parquet", "is a table"), ("", "is a table"), ("a.txt", r"a.txt is no folder")]
)
def test_a_class_of_tables_or_no_folder_is_refused_where_pictures_are_to_be_drawn(tmp_path, name, words):
    (tmp_path / "rows.parquet").touch()
    (tmp_path / "a.txt").touch()
    folder = tmp_path / name
    own = DataSettings(with_prior_preservation=True, class_data_dir=str(folder))
    class_pictures.check_class_folder(own)
    with pytest.raises(ValueError, match=words):
        class_pictures.check_class_folder(replace(own, class_prompt=CLASS))


@pytest.mark.usefixtures("fresh_accelerate")
def test_missing_pictures_are_drawn_once_counted_and_a_stopped_drawing_goes_on(train_only, tmp_path, monkeypatch):
    folder = make(tmp_path / "class", 1)
    about = ("--with_prior_preservation", "--class_data_dir", folder, "--class_prompt", CLASS, "--num_class_images", 7)
    words = (*about, "--validation_inference_steps", 1, "--prior_loss_weight", 0.5, "--checkpointing_steps", 2)
    drawn, saved = [], class_pictures._save

    def stop(picture, file, prompt):
        saved(picture, file, prompt)
        drawn.append(file.name)
        if len(drawn) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(class_pictures, "_save", stop)
        train_only(*words)
    run = train_only(*words)
    files = sorted(file.name for file in folder.glob("*.png"))
    assert files == ["0.png", *(f"class-{number:05}.png" for number in range(6))] and drawn == files[1:4]
    said = json.loads((run / "run.json").read_text())["dataset"]
    assert said["of_the_class"] == 7 and said["in_an_epoch"] == 16
    before = [row["loss"] for row in read_jsonl(run / "log.jsonl")]
    train_only(*words, "--resume_from_checkpoint", "checkpoint-2")
    assert [row["loss"] for row in read_jsonl(run / "log.jsonl")] == before
    (folder / "class-00005.png").rename(tmp_path / "away.png")
    make(folder / "more", 3, start=9)
    with pytest.raises(ValueError, match="its data have changed: pictures was 15 and is 17"):
        train_only(*words, "--resume_from_checkpoint", "checkpoint-2")
    with pytest.raises(ValueError, match="was drawn by --class_prompt 'a colour', and now it is 'a hat'"):
        class_pictures.missing_pictures(folder, "a hat", 8)


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_description_that_changed_since_the_run_began_is_told_when_it_goes_on(described, train_only):
    flags = (
        "--train_data_dir",
        None,
        "--dataset_config",
        described,
        "--checkpointing_steps",
        2,
        "--max_train_steps",
        2,
    )
    run = train_only(*flags)
    text = described.read_text()
    for changed, words in (
        (
            text.replace("is_reg = true", "is_reg = true\nflip = true"),
            "folder 2 of .*toml had flip = None and has True",
        ),
        (text + '[[folders]]\npath = "pictures"\n', "had 2 folders and has 3"),
    ):
        described.write_text(changed)
        with pytest.raises(ValueError, match=words):
            train_only(*flags, "--resume_from_checkpoint", "latest")
    assert read_jsonl(run / "log.jsonl")


@pytest.mark.usefixtures("fresh_accelerate")
def test_what_cant_be_trained_is_told_before_a_picture_of_the_class_is_drawn(train_only, tmp_path, monkeypatch):
    monkeypatch.setattr(class_pictures, "_drawn", lambda *_: pytest.fail("drew pictures first"))
    about = ("--with_prior_preservation", "--class_data_dir", tmp_path / "class", "--class_prompt", CLASS)
    with pytest.raises(ValueError, match="target_modules has 'to_qq', which matches no layer"):
        train_only(*about, "--target_modules", "to_qq")
    one = PlainBlock(torch.ones(1, 99), torch.ones(16, 1), 1.0)
    PlainLoRA({"mid_block.attentions.0.proj_in": one}).save_diffusers(tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"--init_lora .*wide\.safetensors: .*another model"):
        train_only(*about, "--init_lora", tmp_path / "wide.safetensors")


def test_the_check_before_drawing_leaves_nothing_behind(tiny_pipeline_folder):
    parts = load_parts(tiny_pipeline_folder)
    settings = parse_settings(["--train_text_encoder", "--gradient_checkpointing"])
    models = (parts.unet, parts.text_encoder)
    before = [(set(model.state_dict()), model.training, model.is_gradient_checkpointing) for model in models]
    state = torch.get_rng_state()
    check_adapters(settings, parts, Start())
    assert torch.equal(state, torch.get_rng_state()) and not parts.adapted_text
    after = [(set(model.state_dict()), model.training, model.is_gradient_checkpointing) for model in models]
    assert after == before and not any(one.requires_grad for model in models for one in model.parameters())
    with pytest.raises(ValueError, match="--train_text_encoder under DEEPSPEED"):
        check_adapters(settings, parts, Start(), "DEEPSPEED")
