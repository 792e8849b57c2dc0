"""Output that cannot be written as it is: other encodings, closed streams, readers that have gone, full disks."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ospo_cli import cli, presets

ROOT = Path(__file__).resolve().parents[2]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a line of shell in which `ospo` is this package's command; outputs are bytes."""
    text = command.replace("ospo ", f"{sys.executable} -m ospo_cli ")
    return subprocess.run(["sh", "-c", text], env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True)


def shop(folder: Path) -> Path:
    """Write a project with a catalogue of six products."""
    presets.init(folder, "tables")
    (folder / "catalogue").mkdir()
    colours = ["red", "blue", "green", "olive", "navy", "black"]
    texts = {
        "products": ["product_id,title", *(f"p{n},{colour} wool coat" for n, colour in enumerate(colours))],
        "queries": ["query_id,query", *(f"q{n},{colour} outerwear {n}" for n, colour in enumerate(colours))],
        "judgments": ["query_id,product_id,grade", *(f"q{n},p{n},1" for n in range(6))],
    }
    for name, lines in texts.items():
        (folder / "catalogue" / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_shows_the_whole_output(encoding):
    usual, done = shell("ospo params", PYTHONIOENCODING="utf-8"), shell("ospo params", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(usual.stdout.splitlines()) > 100


def test_what_an_encoding_lacks_is_replaced():
    usual, done = shell("ospo params", PYTHONIOENCODING="utf-8"), shell("ospo params", PYTHONIOENCODING="latin-1")
    assert done.stdout == usual.stdout.decode("utf-8").encode("latin-1", "replace")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_nowhere_and_no_failure(closed):
    done = shell(f"ospo params {closed}")
    assert done.returncode == 0
    assert done.stderr == b""


def test_an_error_keeps_its_exit_status_where_stderr_is_closed():
    assert shell("ospo params no-such-name 2>&-").returncode == 1


def test_nothing_is_written_into_a_file_that_took_a_closed_streams_number(tmp_path):
    done = shell(f"ospo init {tmp_path / 'shop'} >&- 2>&-")
    assert done.returncode == 0
    shell(f"ospo init {tmp_path / 'other'}")
    assert [path.read_bytes() for path in sorted((tmp_path / "shop").glob("*.yaml"))] == [
        path.read_bytes() for path in sorted((tmp_path / "other").glob("*.yaml"))
    ]


def test_a_table_is_shown_whole_under_ascii(tmp_path):
    folder = shop(tmp_path / "shop")
    done = shell(f"ospo prepare-data -p {folder} && ospo inspect prompts -p {folder}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 12


def test_a_reader_that_goes_away_is_no_traceback():
    done = shell("ospo params | head -n 1")
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line():
    done = shell("ospo params > /dev/full")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("ospo: file system: the system refused")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_whose_name_the_locale_cannot_spell_works(tmp_path):
    folder = shop(tmp_path / "größe")
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    made = shell(f"ospo prepare-data -p '{folder}'", **plain)
    assert made.returncode == 0, made.stderr
    assert (folder / "data" / "prepared" / "card.json").is_file()


@pytest.mark.parametrize("command", ["ospo inspect $LONG", "ospo run -p $LONG", "ospo init $LONG/shop"])
def test_a_path_of_a_hundred_thousand_characters_is_one_short_line(command, tmp_path):
    done = shell(f"cd {tmp_path} && LONG=$(printf %0100000d 0) && {command}")
    assert done.returncode == 1
    assert done.stderr.startswith(b"ospo: 0000")
    assert done.stderr.count(b"\n") == 1
    assert len(done.stderr) < 1000


def test_ctrl_c_and_a_polite_end_say_how_to_go_on_and_leave_no_lock(tmp_path):
    folder, fifo = shop(tmp_path / "shop"), tmp_path / "shop/catalogue/products.csv"
    fifo.unlink()
    os.mkfifo(fifo)  # whoever reads it waits
    for number, status, word in ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "ospo_cli", "prepare-data", "-p", str(folder)]
        running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        give_up = time.monotonic() + 300
        lock = folder / "data/project.lock"
        while not (lock.exists() and lock.stat().st_size) and time.monotonic() < give_up:  # it names its owner
            time.sleep(0.01)
        running.send_signal(number)
        assert (
            running.communicate(timeout=1800)[1] == f"ospo: {word}; run the same command again; finished shards and checkpoints are kept\n"
        )
        assert running.returncode == status
        assert not (folder / "data/project.lock").exists()


def test_a_process_that_is_told_to_end_while_it_ends_prints_nothing():
    # torchrun tells those that end because another one was killed.
    lines = "import atexit, os, sys; atexit.register(os.kill, os.getpid(), 15); sys.argv = ['ospo', '--version']; import ospo_cli.cli as c; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", lines], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


@pytest.mark.parametrize(("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_an_interruption_of_which_a_library_made_another_error_is_still_one(monkeypatch, capsys, number, status, word):
    def swallowing():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), number)
            time.sleep(5)
        raise ValueError("could not determine the shape of an object")

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(cli, "app", swallowing)
    monkeypatch.setattr(cli, "_drop_stdout", lambda: None)
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert end.value.code == status
    assert capsys.readouterr().err == f"ospo: {word}; run the same command again; finished shards and checkpoints are kept\n"
