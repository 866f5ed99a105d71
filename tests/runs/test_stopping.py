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


def test_processes_that_train_together_and_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    assert [signal.getsignal(signal.SIGTERM) for _ in until_stopped(range(1), heed=False)] == [before]
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(until_stopped(range(3))))
    thread.start()
    thread.join()
    assert seen == [0, 1, 2]
