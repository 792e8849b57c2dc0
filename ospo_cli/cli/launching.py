"""One command in several processes of this machine: torchrun, called as a function, so that its failures end as one line."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from ospo_cli.cli.app import Interrupted
from ospo_cli.errors import OspoError, first_line
from ospo_cli.executors import peers
from ospo_cli.executors.worker import check_versions, versions


def wanted(gpus: int) -> int:
    """Return how many processes are wanted, checked.

    Raises:
        OspoError: none, or more than there are GPUs (on a machine that has any).
    """
    if gpus < 1:
        raise OspoError("--gpus", "is too small", found=gpus, expected="1 or more")
    peers.check_devices(gpus)
    return gpus


def spelled(options: Mapping[str, object]) -> list[str]:
    """Return options as arguments; those of None or False are left out, those of True stand alone."""
    given = {name: value for name, value in options.items() if value not in (None, False)}
    return [part for name, value in given.items() for part in ([name] if value is True else [name, str(value)])]


def check_versions_alike() -> None:
    """Raise WorkerError where another process has other packages, or other code of ospo."""
    import numpy as np

    for number, each in enumerate(peers.gathered({"own": np.array(json.dumps(versions()))})):
        check_versions(json.loads(str(each["own"])), f"torchrun, process {number}")


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run an `ospo` command in so many processes; return when all have ended well.

    A process that fails says so itself, and the others are ended. What says nothing, a kill, is said here.

    Raises:
        OspoError: a process was ended from outside, or torchrun cannot start them.
        SystemExit: a process has failed, and said why.
    """
    import torch
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not torch.cuda.is_available():
        sys.stderr.write(f"{arguments[0]}: no GPU is found here: {count} processes share the processor\n")
    logging.disable(logging.CRITICAL)  # torchrun's own reports
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # what has no password listens on this machine alone
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={count}", "-m", "ospo_cli"]
    try:
        run.run(run.parse_args([*options, *arguments]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        statuses = {number: failure.exitcode for number, failure in sorted(error.failures.items())}
        if 1 in statuses.values():
            sys.exit(1)
        number, status = next(((number, status) for number, status in statuses.items() if status != peers.LOST), (0, 0))
        found = f"process {number} of {count} ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise OspoError(
            f"ospo {arguments[0]}", "one of its processes is gone", found=found,
            remedy="run the same command again: it goes on from the last checkpoint",
        ) from None  # fmt: skip
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise Interrupted("terminated") from None
    except (RuntimeError, OSError) as error:
        raise OspoError("torchrun", "cannot start the processes", found=first_line(error), remedy="see the message") from None
