"""The text scripts' settings: choices, ranges, and checks between them."""

import pytest

from reslora_sd.text.settings import (
    ClassificationData,
    Classifier,
    EvaluationSettings,
    GenerationData,
    LanguageModel,
    TextMethod,
)


def test_defaults_are_those_of_appendix_c_and_the_embedded_models():
    method = TextMethod()
    assert (method.method, method.rank, method.lora_alpha, method.target_modules) == ("reslora_is", 4, 8.0, None)
    assert (LanguageModel().model, Classifier().model) == ("smollm2", "minilm")
    assert (GenerationData().task, GenerationData().max_length) == ("svamp", 512)
    assert (ClassificationData().task, ClassificationData().max_length) == ("rte", 128)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TextMethod, {"method": "dora"}, "--method is 'dora'.*adalora"),
        (LanguageModel, {"dtype": "int8"}, "--dtype is 'int8'.*float32, bfloat16, float16"),
        (GenerationData, {"task": "rte"}, "'rte'.*svamp"),
        (ClassificationData, {"task": "svamp"}, "'svamp'.*rte"),
        (ClassificationData, {"task": "rte", "test_file_mismatched": "b"}, "is for mnli, and --task is rte"),
        (GenerationData, {"max_length": 0}, "--max_length is 0"),
        (GenerationData, {"max_train_samples": 0}, "--max_train_samples is 0"),
        (GenerationData, {"max_eval_samples": -1}, "--max_eval_samples is -1"),
        (GenerationData, {"validation_samples": -1}, "--validation_samples is -1. It must be 0 or more"),
        (EvaluationSettings, {"evaluate": "some"}, "--evaluate is 'some'.*all, loss, none"),
        (EvaluationSettings, {"eval_batch_size": 0}, "--eval_batch_size is 0"),
    ],
)
def test_what_cannot_be_meant_is_told(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_mnli_may_have_a_second_test_set():
    assert ClassificationData(task="mnli", test_file_mismatched="b").test_file_mismatched == "b"
