"""Stopping a training by a signal."""

import os
import signal
import threading

from reslora_sd.runs.stopping import until_stopped


def test_the_loop_ends_after_the_step_in_which_a_signal_came():
    before = signal.getsignal(signal.SIGTERM)
    steps = []
    for step in until_stopped(range(5)):
        steps.append(step)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
    assert steps == [0, 1, 2]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_acts_as_it_would_without_us():
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append("theirs"))
    try:
        for _ in until_stopped(range(5)):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught == ["theirs"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_closed_terminal_stops_like_sigterm_but_nohup_goes_on():
    before = signal.getsignal(signal.SIGHUP)
    steps = []
    for step in until_stopped(range(5)):
        steps.append(step)
        os.kill(os.getpid(), signal.SIGHUP)
    assert steps == [0] and signal.getsignal(signal.SIGHUP) is before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        steps = []
        for step in until_stopped(range(2)):
            steps.append(step)
            os.kill(os.getpid(), signal.SIGHUP)
        assert steps == [0, 1]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_that_train_together_stop_when_one_is_asked_and_bear_more_signals():
    before = signal.getsignal(signal.SIGTERM)
    said = []

    def agree(asked):
        said.append(asked)
        return len(said) == 2  # the other process was asked

    assert list(until_stopped(range(5), agree)) == [0, 1] and said == [False, False]
    assert signal.getsignal(signal.SIGTERM) is before
    try:
        for _ in until_stopped(range(5), lambda asked: asked):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # while the checkpoint is written
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_leave_signals_alone():
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(until_stopped(range(3))))
    thread.start()
    thread.join()
    assert seen == [0, 1, 2]
