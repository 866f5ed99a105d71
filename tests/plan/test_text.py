"""Sites of text models, on a toy whose order of running and of registering differ."""

import pytest
import torch
from torch import nn

from reslora_sd import ResLoRAConfig
from reslora_sd.plan.links import Site
from reslora_sd.plan.text import trace_text
from tests.toys import TARGETS, TEXT_WIDTH, WIDTH, toy


def test_sites_stand_in_the_order_of_running_with_what_they_read():
    sites = trace_text(toy(2), ResLoRAConfig(target_modules=("k", "q", "t")))
    assert sites == [
        Site("layers.0.q", "q", WIDTH, WIDTH, 8, "layers.0.q:input"),
        Site("layers.0.k", "k", WIDTH, WIDTH, 8, "layers.0.q:input"),
        Site("layers.0.t", "t", TEXT_WIDTH, WIDTH, 8, "layers.0.t:input"),
        Site("layers.1.q", "q", WIDTH, WIDTH, 8, "layers.1.q:input"),
        Site("layers.1.k", "k", WIDTH, WIDTH, 8, "layers.1.q:input"),
        Site("layers.1.t", "t", TEXT_WIDTH, WIDTH, 8, "layers.0.t:input"),
    ]


def test_execution_decides_the_order_and_not_registration():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(4, 3)
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

        def forward(self, input_ids):
            x = self.embedding(input_ids)
            for layer in reversed(self.layers):
                x = layer(x)
            return x

    sites = trace_text(Backwards(), ResLoRAConfig(target_modules=r"layers\.\d"))
    assert [site.name for site in sites] == ["layers.2", "layers.1", "layers.0"]


def test_a_model_without_weights_is_traced_and_nothing_is_left_in_it():
    with torch.device("meta"):
        model = toy()
    assert len(trace_text(model, ResLoRAConfig(target_modules=TARGETS))) == 4 * len(TARGETS)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_tracing_builds_no_graph():
    model, seen = toy(1), []
    model.get_submodule("layers.0.o").register_forward_hook(
        lambda _module, _args, output: seen.append(output.requires_grad)
    )
    trace_text(model, ResLoRAConfig(target_modules=TARGETS))
    assert seen == [False]


def test_hooks_go_after_an_error_too():
    model = toy()
    model.layers[1].forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trace_text(model, ResLoRAConfig(target_modules=TARGETS))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_target_that_never_runs_is_named_with_their_number():
    model = toy()
    for layer in model.layers:
        layer.v = nn.Linear(WIDTH, WIDTH)
    with pytest.raises(ValueError, match=r"^layers\.0\.v is a target .* \(4 such modules\)"):
        trace_text(model, ResLoRAConfig(target_modules=("q", "v")))


def test_a_target_that_runs_twice_is_named():
    model = toy()
    model.layers[2].q = model.layers[1].k  # one linear in two places, under its first name
    with pytest.raises(ValueError, match=r"^layers\.1\.k runs twice"):
        trace_text(model, ResLoRAConfig(target_modules=("k",)))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (
            ("q", "query"),
            r"^target_modules has 'query', which .* this ToyModel\. Its linears are named head, k, o, q, t\.$",
        ),
        ("x.*", r"^target_modules has 'x\.\*', which matches no module"),
        (("embedding",), r"^embedding is a Embedding, and ResLoRA takes plain nn\.Linear"),
        (("layers.0",), r"^layers\.0 is a _Layer"),
    ],
)
def test_targets_that_cannot_be_meant_are_named(targets, words):
    model = toy()
    model.head = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=words):
        trace_text(model, ResLoRAConfig(target_modules=targets))


def test_a_linear_of_another_kind_is_refused():
    class Other(nn.Linear):
        pass

    model = toy()
    model.layers[3].q = Other(WIDTH, WIDTH)
    with pytest.raises(ValueError, match=r"^layers\.3\.q is a Other"):
        trace_text(model, ResLoRAConfig(target_modules=("q",)))


def test_a_model_without_linears_says_so():
    with pytest.raises(ValueError, match=r"Its linears are named nothing\.$"):
        trace_text(nn.Embedding(3, 3), ResLoRAConfig(target_modules=("q",)))
