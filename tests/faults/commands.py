"""Commands in children of this process: the libraries are loaded once, everything else is as on the command line."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from typer.testing import CliRunner

from ospo_cli.cli.app import app
from ospo_cli.graph.code import PACKAGE, facts_of
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.report.pages import TEMPLATES, environment
from ospo_cli.retrievers.base import Catalogue
from ospo_cli.retrievers.lexical.bm25 import BM25
from ospo_cli.retrievers.lexical.tfidf_char import CharacterTfidf

LONGEST_SECONDS = 300.0
# Last lines that are no error of ours: a stage's progress, the interpreter's own.
FORBIDDEN = ("Traceback (most recent call last)", "ospo: unexpected:", "panicked at")


LOADED = (
    "faiss", "numba", "polars", "scipy.stats", "torch", "transformers.models.llama.modeling_llama", "ospo_cli.cli",
    "ospo_cli.instruments.foreign_credit", "ospo_cli.instruments.plan.command", "ospo_cli.instruments.audit.estimators",
    "ospo_cli.stages.evaluate", "ospo_cli.stages.prepare_data", "ospo_cli.stages.report", "ospo_cli.stages.update", "ospo_cli.stages.warm_start",
)  # fmt: skip


def load() -> None:
    """Load what the stages load, and use nothing that starts threads: a child of a process with threads may wait for them for ever."""
    for name in LOADED:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    # What a process keeps once it has been made: the hashes of the code, the page's templates, the command line's own classes.
    for path in PACKAGE.rglob("*.py"):
        facts_of(path.read_bytes(), PACKAGE.name)
    for path in TEMPLATES.glob("*.html"):
        environment(TEMPLATES).get_template(path.name)
    CliRunner().invoke(app, ["rollout", "--help"])
    get_checkpoint_conversion_mapping("llama")
    # The compiled loops, which take seconds to read.
    catalogue = Catalogue(["a", "b"], ["red coat", "blue hat"])
    for kind in (BM25, CharacterTfidf):
        kind(catalogue, Retrieval(), None).rank(["red hat"], [None], 2)
    gc.freeze()  # so that a child does not copy what it only looks through


@dataclass
class Command:
    """A command that was started.

    Attributes:
        arguments: as on the command line.
        pid: of the child, which is a process group of its own.
        folder: where its output lies.
        status: as subprocess gives it, negative for a signal; None while it runs.
    """

    arguments: tuple[str, ...]
    pid: int
    folder: Path
    began: float = field(default_factory=time.monotonic)
    status: int | None = None

    @property
    def errors(self) -> str:
        """What it has written on stderr."""
        return (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")

    def poll(self) -> bool:
        """Tell whether it has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """Return its status; end it, and raise, where it takes too long."""
        give_up = time.monotonic() + seconds
        try:
            while not self.poll():
                if time.monotonic() > give_up:
                    raise AssertionError(f"{' '.join(self.arguments)[:200]}: has not ended after {seconds:.0f} s: {self.errors[-2000:]}")
                time.sleep(0.002)
        except BaseException:  # an interrupted campaign too leaves nothing that runs
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise
        assert self.status is not None
        return self.status

    def send(self, number: int) -> None:
        """Send a signal to the whole group."""
        if not self.poll():
            os.killpg(self.pid, number)

    def complaint(self) -> str:
        """Return what is wrong with how it ended, or an empty text: 0, a signal that was sent, or one line with 1 or 2."""
        errors = self.errors
        if found := next((text for text in FORBIDDEN if text in errors), ""):
            return f"{found} in {errors[-1500:]}"
        if self.status in (0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            return ""
        last = (errors.strip().splitlines() or [""])[-1]
        if self.status == 2:  # usage
            return "" if last else "status 2 without a word"
        if self.status not in (1, 130, 143) or not last.startswith("ospo: ") or len(last) > 3000:
            return f"status {self.status}, last line {last[:500]!r}"
        return ""


def start(project: Path, arguments: tuple[str, ...], output: Path, before: Callable[[], None] | None = None) -> Command:
    """Start `ospo ARGUMENTS` in a project's folder; `before` runs in the child first."""
    output.mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):
        (output / name).write_bytes(b"")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be(project, arguments, output, before)
    return Command(arguments, pid, output)


def run(project: Path, arguments: tuple[str, ...], output: Path, before: Callable[[], None] | None = None) -> Command:
    """Run a command to its end."""
    command = start(project, arguments, output, before)
    command.wait()
    return command


def _be(project: Path, arguments: tuple[str, ...], output: Path, before: Callable[[], None] | None) -> None:
    os.setpgid(0, 0)
    os.environ["OSPO_CHECKPOINT_SECONDS"] = "0"
    os.environ.pop("DVC_STAGE", None)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_TRUNC), number)
    become(arguments, project, before)


def become(arguments: tuple[str, ...], folder: Path, before: Callable[[], None] | None = None) -> None:
    """Be `ospo ARGUMENTS` in a folder, in a child whose streams are set; does not return."""
    status = 70
    try:
        os.chdir(folder)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.argv = ["ospo", *arguments]
        if before is not None:
            before()
        from ospo_cli.cli import main

        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
