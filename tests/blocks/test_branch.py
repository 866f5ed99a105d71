"""Branches of a few blocks against tests/oracle.py, without a model around them."""

import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reslora_sd import ResLoRAConfig
from reslora_sd.blocks import equations
from reslora_sd.blocks.block import make_blocks
from reslora_sd.blocks.branch import add_branches
from reslora_sd.blocks.tape import Tape
from reslora_sd.config import RESIDUALS
from reslora_sd.merging.rules import through_map
from reslora_sd.plan.links import Site, link_sites
from tests.oracle import apply_site, world_of
from tests.toys import give_maps, move_away_from_zero

LAYERS, PROJECTIONS = 5, ("q", "k")
CASES = [
    ResLoRAConfig(residual="none", r=3),
    ResLoRAConfig(residual="input", r=3),
    ResLoRAConfig(residual="input", r=3, first_block="none"),
    ResLoRAConfig(residual="frozen", r=3),
    ResLoRAConfig(residual="frozen", r=3, first_block="none"),
    *(
        ResLoRAConfig(residual=residual, r=3, pre_num=pre_num)
        for residual, pre_num in itertools.product(("block", "middle"), (1, 2, -1))
    ),
]


def name_of(config):
    return f"{config.residual}-{config.pre_num}-{config.first_block}"


class Layers:
    """Linears q and k of five layers, all apart: what one layer gives is nothing that the next one reads.

    Args:
        text: whether all layers read one tensor, as k and v of cross-attention do.
        odd: whether the first k is larger, so that the second k has no predecessor while its q has one.
    """

    def __init__(self, config, text=False, odd=False):
        self.starts = {"q": 0, "k": int(odd)}
        inputs = ["text"] * LAYERS if text else [f"{layer}:x" for layer in range(LAYERS)]
        places = [(i, p) for i in range(LAYERS) for p in PROJECTIONS]
        outs = {f"{i}.{p}": 7 if i >= self.starts[p] else 9 for i, p in places}
        sites = [Site(f"{i}.{p}", p, 6, outs[f"{i}.{p}"], 5, inputs[i]) for i, p in places]
        self.config = config
        self.blocks = make_blocks(link_sites(sites, config))
        for block in self.blocks.values():
            block.double()
        move_away_from_zero(SimpleNamespace(parameters=self.parameters))
        give_maps(SimpleNamespace(blocks=self.blocks, config=config))
        torch.manual_seed(1)
        self.linears = {name: torch.nn.Linear(6, out).double().requires_grad_(False) for name, out in outs.items()}
        one = torch.randn(2, 5, 6, dtype=torch.float64)
        self.x = [one] * LAYERS if text else [torch.randn_like(one) for _ in range(LAYERS)]

    def parameters(self):
        return [matrix for block in self.blocks.values() for matrix in (block.lora_A, block.lora_B)]

    def run(self, tape, together=True):
        """All outputs by name, q and k of a layer in one call or in two."""
        outputs: dict[str, Tensor] = {}
        for layer, x in enumerate(self.x):
            names = [f"{layer}.{projection}" for projection in PROJECTIONS]
            for group in [names] if together else [[name] for name in names]:
                plain = [self.linears[name](x) for name in group]
                added = add_branches([self.blocks[name] for name in group], x, plain, self.config, tape)
                outputs.update(zip(group, added, strict=True))
        return outputs

    def expected(self):
        """Outputs of the oracle, and its world."""
        chains = {
            f"{i}.{p}": [f"{k}.{p}" for k in reversed(range(self.starts[p] if i >= self.starts[p] else i, i))]
            for i in range(LAYERS)
            for p in PROJECTIONS
        }
        world = world_of(self, chains)
        places = [(f"{i}.{p}", x) for i, x in enumerate(self.x) for p in PROJECTIONS]
        return {name: apply_site(world, name, self.linears[name], x) for name, x in places}, world


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("kind", ["own", "text", "odd"])
@pytest.mark.parametrize("config", CASES, ids=name_of)
def test_values_and_gradients_are_those_of_the_equations(config, kind, together):
    layers = Layers(config, text=kind == "text", odd=kind == "odd")
    outputs, (expected, world) = layers.run(Tape(), together), layers.expected()
    assert outputs.keys() == expected.keys()
    for name, output in outputs.items():
        torch.testing.assert_close(output, expected[name])
    sum(output.square().sum() for output in outputs.values()).backward()
    sum(output.square().sum() for output in expected.values()).backward()
    for name, block in layers.blocks.items():
        torch.testing.assert_close(block.lora_A.grad, world["A"][name].grad)
        torch.testing.assert_close(block.lora_B.grad, world["B"][name].grad)


def masks_for(layers, seed):
    """What dropout draws when every block draws once, in order: 0 or 1 / (1 - p)."""
    torch.manual_seed(seed)
    return {name: F.dropout(torch.ones_like(layers.x[0]), layers.config.lora_dropout) for name in layers.blocks}


def middle_with_dropout(layers, masks, layer, projection):
    """A_n applied to what is left of the input: dropout comes after the sum of Eq. 2, as LoRA has it on Eq. 1."""
    config, name, x = layers.config, f"{layer}.{projection}", layers.x[layer]
    A = layers.blocks[name].lora_A
    if config.residual == "input":
        x = x + layers.x[layer - 1] if layer else (2 * x if config.first_block == "self" else x)
    if config.residual == "frozen":
        return (masks[name] * x) @ through_map(layers.blocks[name], config).T
    middle = (masks[name] * x) @ A.T
    if config.residual == "middle":
        for earlier in range(max(0, layer - config.pre_num), layer):
            one = f"{earlier}.{projection}"
            middle = middle + (masks[one] * layers.x[earlier]) @ layers.blocks[one].lora_A.T
    return middle


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("config", [case for case in CASES if case.pre_num != -1], ids=name_of)
def test_dropout_falls_on_the_whole_input_of_the_branch_in_every_place_of_a_chain(config, together):
    config = ResLoRAConfig(**{**config.to_dict(), "lora_dropout": 0.4})
    layers = Layers(config)
    masks = masks_for(layers, seed=3)
    torch.manual_seed(3)
    outputs = layers.run(Tape(), together)
    for layer, projection in itertools.product(range(LAYERS), PROJECTIONS):
        name = f"{layer}.{projection}"
        expected = layers.linears[name](layers.x[layer])
        if config.residual == "block":
            x = masks[name] * layers.x[layer]
            for one in range(max(0, layer - config.pre_num), layer + 1):
                block = layers.blocks[f"{one}.{projection}"]
                expected = expected + config.scaling * x @ block.lora_A.T @ block.lora_B.T
        else:
            middle = middle_with_dropout(layers, masks, layer, projection)
            expected = expected + config.scaling * middle @ layers.blocks[name].lora_B.T
        torch.testing.assert_close(outputs[name], expected)


@pytest.mark.parametrize("config", CASES, ids=name_of)
def test_dropout_rests_in_eval_mode(config):
    layers = Layers(ResLoRAConfig(**{**config.to_dict(), "lora_dropout": 0.4}))
    for block in layers.blocks.values():
        block.eval()
    expected, _ = layers.expected()
    for name, output in layers.run(Tape()).items():
        torch.testing.assert_close(output, expected[name])


@pytest.mark.parametrize("strength", [0.5, -2.0])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_strength_multiplies_every_branch(residual, strength):
    layers = Layers(ResLoRAConfig(residual=residual, r=3))
    whole, part = layers.run(Tape()), layers.run(Tape(strength))
    for name, output in part.items():
        base = layers.linears[name](layers.x[int(name[0])])
        torch.testing.assert_close(output - base, strength * (whole[name] - base))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_without_strength_the_frozen_outputs_come_back_untouched(residual):
    layers = Layers(ResLoRAConfig(residual=residual, r=3))
    blocks, x = list(layers.blocks.values())[:2], layers.x[0]
    plain = [layers.linears[block.name](x) for block in blocks]
    added = add_branches(blocks, x, plain, layers.config, Tape(0.0))
    assert isinstance(added, list) and all(one is other for one, other in zip(added, plain, strict=True))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_who_listens_hears_every_blocks_input(residual):
    layers = Layers(ResLoRAConfig(residual=residual, r=3))
    for strength in (1.0, 0.0):
        tape = Tape(strength, inputs={})
        layers.run(tape)
        assert tape.inputs is not None and list(tape.inputs) == list(layers.blocks)
        assert all(x is layers.x[int(name[0])] for name, x in tape.inputs.items())


@pytest.mark.parametrize("config", CASES, ids=name_of)
def test_the_tape_is_empty_when_the_last_reader_has_read(config):
    tape = Tape()
    Layers(config).run(tape)
    assert tape._records == {}


def test_a_call_without_a_tape_names_the_block():
    layers = Layers(ResLoRAConfig(r=3))
    with pytest.raises(RuntimeError, match=r"^0\.q got no tape\. Call the model itself"):
        layers.run(None)


@pytest.mark.parametrize("residual", ["input", "middle"])
def test_a_skipped_predecessor_is_named(residual):
    layers = Layers(ResLoRAConfig(residual=residual, r=3))
    x, linear = layers.x[1], layers.linears["1.q"]
    with pytest.raises(RuntimeError, match=r"^1\.q needs what 0[.:][qx] leaves on the tape"):
        add_branches([layers.blocks["1.q"]], x, [linear(x)], layers.config, Tape())


@pytest.mark.parametrize("residual", RESIDUALS)
def test_products_run_in_the_dtype_of_the_frozen_linear_and_gradients_in_that_of_the_weights(residual):
    layers = Layers(ResLoRAConfig(residual=residual, r=3))
    for block in layers.blocks.values():
        block.float()
    layers.x = [x.bfloat16() for x in layers.x]
    layers.linears = {name: linear.bfloat16() for name, linear in layers.linears.items()}
    outputs = layers.run(Tape())
    assert {output.dtype for output in outputs.values()} == {torch.bfloat16}
    sum(output.float().sum() for output in outputs.values()).backward()
    assert {parameter.grad.dtype for parameter in layers.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "odd", "products"),
    [
        ({"residual": "none"}, False, LAYERS),
        ({"residual": "middle"}, False, LAYERS),
        ({"residual": "input"}, False, LAYERS),
        ({"residual": "input"}, True, LAYERS + 1),  # in the second layer q adds what k doesn't
        ({"residual": "none", "lora_dropout": 0.1}, False, 2 * LAYERS),
        ({"residual": "input", "lora_dropout": 0.1}, False, 2 * LAYERS),
    ],
)
def test_one_product_serves_blocks_that_read_one_tensor_where_it_can(monkeypatch, settings, odd, products):
    calls = []

    def counted(honest):
        def count(*parts):
            calls.append(parts)
            return honest(*parts)

        return count

    for name in ("lora", "input_shortcut"):
        monkeypatch.setattr(equations, name, counted(getattr(equations, name)))
    layers = Layers(ResLoRAConfig(r=3, **settings), odd=odd)
    layers.run(Tape())
    assert len(calls) == products
    for block in layers.blocks.values():  # dropout that rests forbids nothing
        block.eval()
    calls.clear()
    layers.run(Tape())
    assert len(calls) == (LAYERS + 1 if odd else LAYERS)
