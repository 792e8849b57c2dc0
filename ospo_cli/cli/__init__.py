"""The commands. A stage or an instrument is imported when it is called, so that `ospo --help` loads Typer alone."""

from __future__ import annotations

import os
import sys

from ospo_cli.cli.app import app
from ospo_cli.errors import OspoError

# Imported for their commands, which the help lists in this order.
from ospo_cli.cli import before_training, loop, looking, exchange, store  # isort: skip

__all__ = ["app", "before_training", "exchange", "looking", "loop", "main", "store"]


def main() -> None:
    """Run a command; what a person can repair ends as one line on stderr and exit status 1."""
    try:
        app()
    except OspoError as error:
        _fail(error.line())
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again, finished work is kept", status=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = error.filename or "file system"
        _fail(
            OspoError(
                place, "the system refused", found=error.strerror or error, remedy="mend that, then run the same command again"
            ).line()
        )
    except MemoryError:
        _fail(
            OspoError("memory", "not enough", remedy="use a smaller batch size (rollout.batch_size, update.tokens_per_micro_batch)").line()
        )
    except SystemExit:
        raise
    except BaseException as error:  # also a panic of a Rust library, which is no Exception
        if os.environ.get("OSPO_TRACEBACK"):
            raise
        found = next(iter(str(error).strip().splitlines()), "no message")
        _fail(
            OspoError(
                "unexpected",
                f"{type(error).__name__}, which should have been caught earlier",
                found=found,
                remedy="OSPO_TRACEBACK=1 shows where; please report it",
            ).line()
        )


def _fail(line: str, status: int = 1) -> None:
    sys.stderr.write(f"ospo: {line}\n")
    sys.stderr.flush()
    sys.exit(status)
