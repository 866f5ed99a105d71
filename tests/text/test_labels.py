"""Label orders by name, heads of other tasks, and what the config says of them afterwards."""

from contextlib import nullcontext

import pytest
import torch
import transformers

from reslora_sd.text.evaluate import measure_classes
from reslora_sd.text.glue import GLUE_TASKS, class_outputs, encode_pairs, glue_task, read_train
from reslora_sd.text.labels import class_order
from reslora_sd.text.models import load_classifier
from tests.texts import byte_tokenizer, save_small_bert, small_bert, write_glue


def save_named(folder, names, problem=None):
    """A classifier whose outputs have these names, with a tokenizer."""
    model = small_bert(labels=len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: place for place, name in enumerate(names)}
    model.config.problem_type = problem
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def load(folder, task, **more):
    task = glue_task(task)
    return load_classifier(str(folder), task.labels, classes=task.classes, **more)[0]


def test_every_tasks_own_names_are_in_the_order_of_its_labels():
    for task in GLUE_TASKS.values():
        names = {place: own[0] for place, own in enumerate(task.classes)}
        assert class_order(task.classes, names) == (tuple(range(task.labels)) if names else ())


@pytest.mark.parametrize(
    ("task", "names", "order"),
    [
        ("mnli", ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], (2, 1, 0)),  # FacebookAI/roberta-large-mnli
        ("mnli", ["contradiction", "entailment", "neutral"], (1, 2, 0)),  # cross-encoder/nli-*
        ("sst2", ["NEGATIVE", "POSITIVE"], (0, 1)),
        ("rte", ["not entailment", "Entailment"], (1, 0)),
        ("mrpc", ["is_paraphrase", "not_paraphrase"], (1, 0)),
        ("mnli", ["LABEL_0", "LABEL_1", "LABEL_2"], None),
        ("rte", ["entailment", "entailment"], None),
        ("sst2", ["negative", "neutral", "positive"], None),
    ],
)
def test_outputs_are_found_by_name(task, names, order):
    assert class_order(glue_task(task).classes, dict(enumerate(names))) == order


def test_a_model_with_another_order_is_right_on_every_row(tmp_path):
    """roberta-large-mnli's order: what it says is read by its names, in training and in every figure."""
    task = glue_task("mnli")
    model = load(save_named(tmp_path / "model", ["contradiction", "neutral", "entailment"]), "mnli")
    rows = read_train(task, str(write_glue(tmp_path / "rows.jsonl", "mnli", 40)), None, 0)
    outputs = class_outputs(task, model.config)
    examples, _ = encode_pairs(rows, task, byte_tokenizer(), 64, outputs)
    assert [one["labels"] for one in examples] == [2 - row["label"] for row in rows]

    class Knows(torch.nn.Module):
        """Says what the model with this order would say that is always right."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, labels_of_its_own, **_):
            return transformers.modeling_outputs.SequenceClassifierOutput(
                logits=torch.nn.functional.one_hot(labels_of_its_own, 3) * 2.0
            )

    labels = torch.tensor([one["labels"] for one in examples])
    batches = [{"labels": labels, "labels_of_its_own": labels}]
    found = measure_classes(Knows(), {"unmerged": nullcontext}, batches, task.metrics, outputs=outputs)["unmerged"]
    assert found["accuracy"] == 1 and found["loss"] < 0.3


def test_f1_is_of_the_tasks_positive_class_whatever_the_order():
    task, labels = glue_task("mrpc"), torch.tensor([0, 0, 1, 1])  # the model's: 0 is equivalent
    logits = torch.tensor([[2.0, 0], [2, 0], [2, 0], [0, 2]])

    class Says(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, **_):
            return transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)

    batch = {"labels": labels}
    found = measure_classes(Says(), {"unmerged": nullcontext}, [batch], task.metrics, outputs=(1, 0))["unmerged"]
    assert found["f1"] == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))


def test_an_order_that_cannot_be_known_is_refused_and_a_new_head_trains_if_asked(tmp_path):
    folder = save_named(tmp_path, ["LABEL_0", "LABEL_1"])
    with pytest.raises(ValueError, match=r"LABEL_0, LABEL_1.*not_equivalent, equivalent.*--new_head"):
        load(folder, "mrpc")
    model = load(folder, "mrpc", new_head=True)
    assert model.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    assert not torch.equal(model.classifier.weight, small_bert().classifier.weight)


def test_a_head_with_the_names_of_another_task_is_replaced_and_told(tmp_path, caplog):
    model = load(save_named(tmp_path, ["negative", "positive"]), "rte")
    assert "another task" in caplog.text and model.config.label2id == {"entailment": 0, "not_entailment": 1}
    weight = model.classifier.weight
    assert not torch.equal(weight, small_bert().classifier.weight)
    assert weight.std() == pytest.approx(0.02, rel=0.5) and not model.classifier.bias.any()


def test_the_tasks_own_head_goes_on_in_its_own_order(tmp_path):
    model = load(save_named(tmp_path, ["not_entailment", "entailment"]), "rte")
    assert torch.equal(model.classifier.weight, small_bert().classifier.weight)
    assert model.config.id2label == {0: "not_entailment", 1: "entailment"}
    assert class_outputs(glue_task("rte"), model.config) == (1, 0)


@pytest.mark.parametrize(
    ("names", "problem"), [(["LABEL_0"], "regression"), (["a", "b", "c"], "multi_label_classification")]
)
def test_a_classifier_after_another_kind_of_problem_has_its_own_loss(tmp_path, names, problem):
    model = load(save_named(tmp_path, names, problem), "mrpc")
    model.train()
    tokens, labels = torch.arange(3, 15).view(2, 6), torch.tensor([0, 1])
    found = model(input_ids=tokens, labels=labels)
    assert found.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(found.logits, labels).item())


@pytest.mark.parametrize("names", [["not_equivalent", "equivalent"], ["LABEL_0"]])
def test_a_score_after_any_task_is_a_squared_error(tmp_path, names):
    problem = "single_label_classification" if len(names) > 1 else None
    model = load(save_named(tmp_path, names, problem), "stsb")
    labels = torch.tensor([1.5, 3.0])
    found = model(input_ids=torch.arange(3, 15).view(2, 6), labels=labels)
    assert found.loss.item() == pytest.approx((found.logits.squeeze(-1) - labels).square().mean().item())


def test_an_encoder_alone_gets_the_tasks_names(tmp_path):
    model = load(save_small_bert(tmp_path, encoder_only=True), "mnli")
    assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
