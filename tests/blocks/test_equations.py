import pytest
import torch

from reslora_sd.blocks import equations as residual
from reslora_sd.blocks.block_product import BlockProduct


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_each_middle_is_its_equation():
    torch.manual_seed(0)
    x, x_prev, A, earlier = draw(2, 5, 6), draw(2, 5, 6), draw(3, 6), [draw(2, 5, 3), draw(2, 5, 3)]
    Ax = torch.einsum("ri,bti->btr", A, x)
    torch.testing.assert_close(residual.lora(x, A), Ax)
    torch.testing.assert_close(residual.input_shortcut(x, x_prev, A), torch.einsum("ri,bti->btr", A, x + x_prev))
    torch.testing.assert_close(residual.middle_shortcut(Ax, earlier), Ax + earlier[0] + earlier[1])


def test_the_stacked_pair_of_eq_3_is_the_sum():
    torch.manual_seed(0)
    A, B = [draw(3, 6) for _ in range(4)], [draw(7, 3) for _ in range(4)]
    stacked_A, stacked_B = residual.block_shortcut(A, B)
    torch.testing.assert_close(stacked_B @ stacked_A, sum(b @ a for a, b in zip(A, B, strict=True)))


def test_up_adds_the_scaled_branch():
    torch.manual_seed(0)
    h, middle, B = draw(2, 5, 7), draw(2, 5, 3), draw(7, 3)
    torch.testing.assert_close(residual.up(h, middle, B, 1.5), h + 1.5 * torch.einsum("or,btr->bto", B, middle))


@pytest.mark.parametrize("count", [1, 3])
def test_the_node_of_eq_3_has_the_gradients_of_autograd(count):
    torch.manual_seed(0)
    inputs = [draw(5, 7), draw(5, 6), 1.5, *[draw(3, 6) for _ in range(count)], *[draw(7, 3) for _ in range(count)]]
    assert torch.autograd.gradcheck(BlockProduct.apply, inputs)


@pytest.mark.parametrize("wanted", ["h", "x", "A", "B"])
def test_the_node_of_eq_3_gives_a_gradient_to_each_input_alone(wanted):
    torch.manual_seed(0)
    inputs = {"h": draw(5, 7), "x": draw(5, 6), "s": 1.5, "A": draw(3, 6), "B": draw(7, 3)}
    for name, value in inputs.items():
        if name != "s":
            value.requires_grad_(name == wanted)
    direct = inputs["h"] + 1.5 * inputs["x"] @ inputs["A"].T @ inputs["B"].T
    expected = torch.autograd.grad(direct.square().sum(), inputs[wanted])[0]
    found = torch.autograd.grad(BlockProduct.apply(*inputs.values()).square().sum(), inputs[wanted])[0]
    torch.testing.assert_close(found, expected)
