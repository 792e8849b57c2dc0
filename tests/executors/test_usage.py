"""What a piece of work takes."""

import time

import numpy as np

from ospo_cli.executors.usage import Usage, current_bytes, peak_bytes


def test_sleeping_takes_time_and_no_processor_and_computing_takes_both():
    with Usage() as asleep:
        time.sleep(0.2)
    with Usage() as busy:
        sum(number * number for number in range(2_000_000))
    assert asleep.seconds >= 0.2
    assert asleep.cpu_seconds < 0.1
    assert busy.cpu_seconds > asleep.cpu_seconds
    assert busy.seconds > 0


def test_memory_that_was_taken_is_seen():
    before = peak_bytes()
    with Usage() as usage:
        block = np.ones(12_000_000)
    assert usage.peak_bytes >= block.nbytes
    assert usage.peak_bytes >= before or usage.peak_bytes > 0.9 * block.nbytes


def test_what_is_there_now_is_no_more_than_the_largest_so_far():
    block = np.ones(2_000_000)
    assert block.nbytes < current_bytes() <= 1.05 * peak_bytes()


def test_a_block_that_fails_is_measured_too_and_the_error_goes_on():
    usage = Usage()
    caught = []
    try:
        with usage:
            raise ValueError
    except ValueError as error:
        caught.append(error)
    assert caught
    assert usage.seconds > 0
