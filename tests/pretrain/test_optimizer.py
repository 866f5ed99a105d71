"""Which parameters Muon changes, and by how much: against the polar factor, for every order of memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reslora_sd.pretrain.loop import Stage, StageSettings
from reslora_sd.pretrain.optimizer import MuonAndAdamW, as_matrix, split_parameters


def modules() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "kernel": nn.Conv2d(12, 16, 3),
            "last": nn.Conv2d(12, 16, 3).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            "narrow": nn.Conv2d(12, 4, 3),
            "matrix": nn.Linear(24, 60),
            "names": nn.Embedding(40, 16),
            "norm": nn.LayerNorm(16),
        }
    )


def with_gradients(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return net


def changes(net: nn.Module, weight_decay: float = 0.0, workers: int = 1) -> dict[str, Tensor]:
    """What one step at rate 1e-2 adds to every parameter."""
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    with ThreadPoolExecutor(workers) as pool:
        MuonAndAdamW(net, weight_decay).step(1e-2, pool)
    return {name: parameter.detach() - before[name] for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_seen_as_a_matrix_is_the_same_memory(memory_format: torch.memory_format) -> None:
    kernel = torch.randn(5, 3, 2, 2).to(memory_format=memory_format)
    matrix = as_matrix(kernel)
    assert matrix.shape == (5, 12) and matrix.data_ptr() == kernel.data_ptr()
    assert torch.equal(matrix.sort(1).values, kernel.flatten(1).sort(1).values)  # every row is one output's
    matrix.zero_()
    assert not kernel.any()


def test_kernels_and_matrices_are_told_from_embeddings_narrow_ones_and_vectors() -> None:
    net = modules()
    net["norm"].requires_grad_(False)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    wide, rest = split_parameters(net)
    assert [names[id(one)] for one in wide] == ["kernel.weight", "last.weight", "matrix.weight"]
    expected = ["kernel.bias", "last.bias", "narrow.weight", "narrow.bias", "matrix.bias", "names.weight"]
    assert [names[id(one)] for one in rest] == expected


@pytest.mark.parametrize("name", ["kernel.weight", "last.weight", "matrix.weight"])
def test_a_matrix_moves_against_its_gradients_polar_factor(name: str) -> None:
    net = with_gradients(modules())
    gradient = net.get_parameter(name).grad
    assert gradient is not None
    rows = gradient.double().flatten(1)
    u, _, v = torch.linalg.svd(rows, full_matrices=False)
    expected = -1e-2 * 0.2 * max(rows.shape) ** 0.5 * (u @ v)  # root of the mean square: 0.2 of the rate
    change = changes(net)[name].double().flatten(1)
    assert torch.nn.functional.cosine_similarity(change.flatten(), expected.flatten(), dim=0) > 0.97
    values = torch.linalg.svdvals(change) / torch.linalg.svdvals(expected)
    assert values.min() > 0.6 and values.max() < 1.3  # Newton-Schulz is quick, not exact


def test_other_parameters_move_as_with_adam_and_do_not_shrink() -> None:
    net = with_gradients(modules())
    changed = changes(net, weight_decay=0.5)
    _, rest = split_parameters(net)
    for name, parameter in net.named_parameters():
        if any(parameter is one for one in rest):
            assert parameter.grad is not None
            assert torch.allclose(changed[name], -1e-2 * parameter.grad.sign(), atol=1e-6), name  # Adam's first step


def test_matrices_shrink_by_the_weight_decay() -> None:
    weights = modules().get_parameter("matrix.weight").detach()
    shrunk = changes(with_gradients(modules()), weight_decay=0.5)["matrix.weight"]
    kept = changes(with_gradients(modules()))["matrix.weight"]
    assert torch.allclose(shrunk - kept, -1e-2 * 0.5 * weights, atol=1e-6)


def test_threads_that_share_the_work_change_nothing() -> None:
    alone, shared = (changes(with_gradients(modules()), 0.1, workers) for workers in (1, 3))
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


def test_an_old_torch_is_refused_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.optim.Muon")
    with pytest.raises(ImportError, match=r"torch 2\.9 or newer"):
        Stage("line", nn.ModuleDict({"line": nn.Linear(8, 8)}), StageSettings(1e-3, 2, max_steps=1), tmp_path, seed=0)
