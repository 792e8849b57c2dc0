"""What a piece of work takes."""

import time

import numpy as np
import pytest

from ospo_cli.executors.usage import Usage


def test_sleeping_takes_time_and_no_processor_and_computing_takes_both():
    with Usage() as asleep:
        time.sleep(0.2)
    with Usage() as busy:
        sum(number * number for number in range(2_000_000))
    assert asleep.seconds >= 0.2
    assert asleep.cpu_seconds < 0.1
    assert busy.cpu_seconds > asleep.cpu_seconds
    assert busy.seconds >= busy.cpu_seconds * 0.9


def test_the_peak_is_that_of_the_block_and_not_of_what_was_freed_before_it():
    with Usage() as large:
        block = np.ones(40_000_000)
    del block
    with Usage() as small:
        np.ones(1_000)
    assert large.peak_bytes >= 320_000_000
    assert small.peak_bytes <= large.peak_bytes - 200_000_000


def test_a_block_that_fails_is_measured_too_and_the_error_goes_on():
    usage = Usage()

    def fails():
        with usage:
            time.sleep(0.05)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fails()
    assert usage.seconds >= 0.05
