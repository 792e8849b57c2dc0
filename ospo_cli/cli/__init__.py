"""The commands. A stage or an instrument is imported when it is called, so that `ospo --help` loads Typer alone."""

from __future__ import annotations

import os
import signal
import sys

from ospo_cli.errors import Finished, OspoError
from ospo_cli.executors import peers

INTERRUPTED = "run the same command again; finished shards and checkpoints are kept"
try:
    from ospo_cli.cli.app import Interrupted, app

    # Imported for their commands, which the help lists in this order.
    from ospo_cli.cli import before_training, loop, looking, after_training, exchange, store  # isort: skip
except KeyboardInterrupt:  # Ctrl-C while Python still reads files
    sys.stderr.write(f"ospo: interrupted; {INTERRUPTED}\n")
    sys.exit(130)

__all__ = ["after_training", "app", "before_training", "exchange", "looking", "loop", "main", "store"]


def main() -> None:
    """Run a command; what a person can repair ends as one line on stderr and exit status 1."""
    try:
        _run()
    finally:  # nothing is left to be done in order, and the interpreter would print at its end what a handler raises
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run() -> None:
    if sys.getfilesystemencoding() != "utf-8":  # else the libraries beneath cannot open a path that the locale cannot spell
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-m", "ospo_cli", *sys.argv[1:]])  # noqa: S606
    _open_streams()
    peers.hush()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    _received.clear()
    try:
        try:
            app()
        except Exception:
            if _received:  # within a library's C code, which has made another error of it
                raise _received[0] from None
            raise
        finally:
            sys.stdout.flush()  # a full disk or a reader that has gone is said here, not by the interpreter's last words
    except OspoError as error:
        _fail(error.line())
    except Finished:
        sys.exit(0)
    except (KeyboardInterrupt, Interrupted) as error:
        _drop_stdout()  # a reader that went with us
        if peers.is_launched():
            sys.exit(peers.LOST)  # what started this process says so
        _fail(f"{str(error) or 'interrupted'}; {INTERRUPTED}", status=143 if str(error) else 130)
    except BrokenPipeError:
        _drop_stdout()
        sys.exit(1)
    except OSError as error:
        place = error.filename or "file system"
        _drop_stdout()
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
        if peers.is_loss_of_peer(error):
            sys.exit(peers.LOST)
        found = next(iter(str(error).strip().splitlines()), "no message")
        _fail(
            OspoError(
                "unexpected",
                f"{type(error).__name__}, which should have been caught earlier",
                found=found,
                remedy="OSPO_TRACEBACK=1 shows where; please report it",
            ).line()
        )


_received: list[BaseException] = []


def _terminate(number: int, frame: object) -> None:
    """End in order: what is half written is removed, and the project given back."""
    _received.append(Interrupted("terminated"))
    raise _received[-1]


def _interrupt(number: int, frame: object) -> None:
    _received.append(KeyboardInterrupt())
    raise _received[-1]


def _drop_stdout() -> None:
    """Send what is still buffered for stdout nowhere: it cannot be written, and the interpreter would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_streams() -> None:
    """Let output be written whatever the locale is, and treat a stream that was closed as /dev/null.

    A closed descriptor is opened first: else the next file that is opened would get its number, and messages would be written into it.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for as long as the process lives)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def _fail(line: str, status: int = 1) -> None:
    if peers.speaks():
        sys.stderr.write(f"ospo: {line}\n")
        sys.stderr.flush()
    sys.exit(status)
