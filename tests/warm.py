"""`ospo` commands as processes, without the five seconds that an interpreter takes to import what a stage needs.

A server imports it once and forks per command; `ospo` is a script that hands it its arguments, folder, environment and streams, and
ends with its exit status. Limits of the process and signals are not handed on: tests of those start the real command.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"x"], [0, 1, 2])
server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.makefile().read() or 70))
"""


@contextlib.contextmanager
def commands(folder: Path):
    """Give a folder for PATH in which `ospo` is answered by a warm server."""
    address = str(folder / "server")
    (folder / "ospo").write_text(SCRIPT.format(python=sys.executable, address=address))
    (folder / "ospo").chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, "-m", "tests.warm", address], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    server.stdout.readline()
    yield folder
    server.communicate()


def serve(address: str) -> None:
    """Answer until stdin ends."""
    import ospo_cli.stages

    stages = [found.name for found in pkgutil.iter_modules(ospo_cli.stages.__path__, "ospo_cli.stages.")]
    for name in ("ospo_cli.cli", "ospo_cli.retrievers.lexical.bm25", "transformers.models.llama.modeling_llama", *stages):
        importlib.import_module(name)
    gc.freeze()  # else a fork's collector copies every page
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    signal.signal(signal.SIGCHLD, reap)
    print("ready", flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        asking, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(asking)
        asking.close()


def reap(*_) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def answer(asking: socket.socket) -> None:
    """Run the command that is asked for in a fork of its own and send its exit status."""
    _, streams, _, _ = socket.recv_fds(asking, 1, 3)
    arguments, folder, environment = json.loads(asking.makefile().read())
    command = os.fork()
    if command == 0:
        asking.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["ospo", *arguments]
        os._exit(status_of(sys.modules["ospo_cli.cli"].main))
    status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    asking.sendall(str(status if status >= 0 else 128 - status).encode())
    os._exit(0)


def status_of(main) -> int:
    """Run a program to the end of an interpreter, but for taking apart all modules, which takes two seconds."""
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    serve(sys.argv[1])
