"""Progress lines elsewhere than on a terminal: each state once, the last one with the time."""

import io

from ospo_cli.executors.progress import Progress


def test_the_last_state_is_printed_once_and_with_the_time_that_it_took():
    stream = io.StringIO()
    progress = Progress("stage", 3, "rows", stream, every_seconds=0)
    for _ in range(3):
        progress.advance()
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert lines[-1].endswith(" s")
    assert "left" not in lines[-1]
