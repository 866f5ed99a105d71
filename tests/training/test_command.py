"""How scripts begin and end."""

import pytest
import transformers

from reslora_sd.training.command import quiet_libraries, run_command


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, PermissionError, ImportError, RuntimeError])
def test_errors_of_input_end_in_one_line(error):
    def main():
        raise error("This is wrong. Do that.")

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert caught.value.code == "Error: This is wrong. Do that."


@pytest.mark.parametrize("words", ["", "Interrupted. Resume."])
def test_an_interrupt_ends_in_one_line(words, capsys):
    def main():
        raise KeyboardInterrupt(*([words] if words else []))

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert caught.value.code == 130 and capsys.readouterr().err.strip() == (words or "Interrupted.")


def test_our_own_mistakes_keep_their_traceback():
    def main():
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        run_command(main)


def test_a_main_that_ends_well_is_run_once_and_exits_as_usual():
    calls = []
    run_command(lambda: calls.append(1))
    assert calls == [1]


def test_the_named_library_is_silenced():
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        logging.enable_progress_bar()
        quiet_libraries("transformers")
        assert logging.get_verbosity() == logging.ERROR and not logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before)
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
