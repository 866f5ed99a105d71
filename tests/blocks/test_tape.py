import pytest
import torch
from torch import Tensor

from reslora_sd.blocks.tape import (
    Tape,
    branch_strength,
    checkpoint_contexts,
    current_tape,
    end_tape,
    enter_tape,
    leave_tape,
    listening,
    new_tape,
)


def test_the_first_value_stays_and_goes_with_its_last_reader():
    tape = Tape()
    first, second = torch.ones(1), torch.zeros(1)
    tape.write("x", first, readers=2)
    tape.write("x", second, readers=0)
    assert tape.read("x", "a") is first and tape.read("x", "b") is first
    with pytest.raises(RuntimeError, match=r"c needs what x leaves on the tape"):
        tape.read("x", "c")


def test_recomputation_finds_the_values_without_their_graph():
    tape = Tape(keep=True)
    tape.write("x", torch.ones(1, requires_grad=True) * 2, readers=1)
    assert tape.read("x", "a").grad_fn is not None
    tape.close()
    kept = tape.read("x", "a")
    assert kept.grad_fn is None and kept.requires_grad and float(kept.detach()) == 2


def test_a_value_stays_until_as_many_have_read_it_as_all_writers_announced():
    tape = Tape()
    tape.write("x", torch.ones(1), readers=1)
    tape.write("x", torch.zeros(1), readers=2)
    tape.read("x", "a", readers=2)
    assert float(tape.read("x", "b")) == 1
    with pytest.raises(RuntimeError, match=r"^c needs what x leaves on the tape, but that block has not run"):
        tape.read("x", "c")


def test_closing_keeps_what_needs_no_gradient_so():
    tape = Tape(keep=True)
    tape.write("x", torch.ones(1), readers=1)
    tape.close()
    assert not tape.read("x", "a").requires_grad


def test_strengths_multiply_and_end_with_their_block():
    assert (new_tape().strength, new_tape(0.5).strength) == (1.0, 0.5)
    with branch_strength(0.5):
        with branch_strength(0.25):
            assert new_tape(2.0).strength == 0.25
        assert new_tape().strength == 0.5
        with pytest.raises(KeyError), branch_strength(0.0):
            raise KeyError
        assert new_tape().strength == 0.5
    assert new_tape().strength == 1.0


def test_inputs_are_kept_for_a_listener_only():
    heard: list[dict[str, Tensor]] = []
    x = torch.ones(1)
    with listening(heard.append):
        assert not torch.is_grad_enabled()
        tape = new_tape()
        tape.hear(x, ["a", "b"])
        end_tape(tape)
    assert heard == [{"a": x, "b": x}] and torch.is_grad_enabled()
    silent = new_tape()
    silent.hear(x, ["a"])
    assert silent.inputs is None
    with listening(heard.append):
        end_tape(silent)  # began before anybody listened
    end_tape(tape)  # nobody listens any more
    assert len(heard) == 1


def test_end_tape_cuts_the_graph():
    tape = new_tape(keep=True)
    tape.write("x", torch.ones(1, requires_grad=True) * 2, readers=1)
    end_tape(tape)
    assert tape.read("x", "a").grad_fn is None
    tape = new_tape()
    tape.write("x", torch.ones(1), readers=1)
    tape.read("x", "a")
    with pytest.raises(RuntimeError):  # nothing is kept unasked
        tape.read("x", "a")


def test_one_forward_pass_may_run_inside_another():
    outer, inner = Tape(), Tape()
    assert current_tape() is None
    enter_tape(outer)
    enter_tape(inner)
    assert current_tape() is inner
    leave_tape(inner)
    assert current_tape() is outer
    leave_tape(outer)
    assert current_tape() is None


def test_a_recomputation_gets_the_tape_of_its_forward_pass_as_often_as_it_runs():
    tape = Tape()
    enter_tape(tape)
    forward, again = checkpoint_contexts()
    with forward:
        assert current_tape() is tape
    leave_tape(tape)
    for _ in range(2):
        with again:
            assert current_tape() is tape
            with again:
                assert current_tape() is tape
            assert current_tape() is tape
        assert current_tape() is None


def test_a_recomputation_of_a_pass_without_a_tape_has_none():
    _, again = checkpoint_contexts()
    enter_tape(Tape())
    with again:
        assert current_tape() is None
    tape = current_tape()
    assert tape is not None
    leave_tape(tape)
