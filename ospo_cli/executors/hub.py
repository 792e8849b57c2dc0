"""Models of the Hugging Face hub, or of a server of its protocol (HF_ENDPOINT): one commit, safetensors only, each file by its hash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ospo_cli.errors import FileError, OspoError, first_line
from ospo_cli.tables import files
from ospo_cli.tables.model_folder import PICKLES

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a folder of a model is made of here: beside the weights, small files of its top and the pooling of sentence-transformers.
_FILE = re.compile(
    r"1_Pooling/config\.json|[A-Za-z0-9_][\w-]*(\.[\w-]+)*\.(safetensors|json|jinja|txt|model)|LICENSE(\.\w+)?|NOTICE", re.ASCII
)
_PICKLES = (*PICKLES, ".h5", ".msgpack")


def is_name(source: str) -> bool:
    """Tell whether the text has the form ORG/NAME."""
    return _NAME.fullmatch(source) is not None


def download(repository: str, revision: str | None, stage: Path, command: str) -> dict[str, str]:
    """Write the files of a model's commit into a folder; return the SHA-256 of each by name.

    What an earlier call brought whole is not fetched again. A token (HF_TOKEN, or of `hf auth login`) goes to the hub alone, as
    huggingface_hub sees to.

    Args:
        repository: ORG/NAME.
        revision: a commit, 40 digits.
        stage: a folder of its own for this commit; what is there stays when this fails.
        command: `fetch-policy` or `fetch-encoder`, for remedies.

    Raises:
        OspoError: no network, no such model or commit, names of files that lead elsewhere, no safetensors, or bytes that are not those
            that the hub lists.
        FileError: the disk is full or cannot be written.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    endpoint = os.environ.get("HF_ENDPOINT") or None
    asked = f"{command} {repository}"
    try:
        _go_online()
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision, files_metadata=True, timeout=30)
        _check_revision(asked, revision, str(info.sha))
        wanted = _wanted(asked, info.siblings or [])
        stage.mkdir(parents=True, exist_ok=True)
        _check_space(stage, sum(file.size or 0 for file in wanted if not (stage / file.rfilename).is_file()))
        for file in wanted:
            path = hf_hub_download(repository, file.rfilename, revision=revision, local_dir=stage, endpoint=endpoint)
            _check_content(asked, Path(path), file)
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise _unreachable(asked, revision, error) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise OspoError(asked, "the hub refuses", found=first_line(error), remedy="look at the name, the commit and HF_TOKEN") from None
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise OspoError(
                asked, "cannot be fetched", found=first_line(error), remedy="run the command again: whole files are kept"
            ) from None
        raise FileError(stage, "cannot be written", found=first_line(error), remedy="free space, then run the command again") from None
    except Exception as error:  # of the HTTP library, whose name changes from version to version of huggingface_hub
        if isinstance(error, OspoError) or not type(error).__module__.startswith("httpx"):
            raise
        raise _unreachable(asked, revision, error) from None
    return {file.rfilename: files.sha256_of(stage / file.rfilename) for file in wanted}


def _go_online() -> None:
    """Undo, for this process, that commands are offline by default: this one was asked to fetch. What the person set holds."""
    from huggingface_hub import constants

    import ospo_cli

    constants.HF_HUB_OFFLINE = ospo_cli.OFFLINE_ASKED


def _check_revision(asked: str, revision: str | None, found: str) -> None:
    if revision is None or not _COMMIT.fullmatch(revision):
        raise OspoError(
            asked,
            "is not pinned to a commit",
            found=revision or "no --revision",
            expected="40 hexadecimal digits",
            remedy=f"the newest now: --revision {found}" if _COMMIT.fullmatch(found) and not revision else "name a commit",
        )
    if found != revision:
        raise OspoError(asked, "the hub answers with another commit", found=found, expected=revision)


def _wanted(asked: str, listed: list[Any]) -> list[Any]:
    """Return the files to fetch; raise where there are no safetensors, or a name leads out of the folder."""
    for file in listed:
        parts = file.rfilename.replace("\\", "/").split("/")
        if ".." in parts or "" in parts or ":" in parts[0] or not file.rfilename.isprintable():
            raise OspoError(asked, "lists a file outside its own folder; nothing was fetched", found=repr(file.rfilename)[:80])
    known = [file for file in listed if _FILE.fullmatch(file.rfilename)]
    weights = [file for file in known if file.rfilename.endswith(".safetensors")]
    if not weights:
        pickles = [file.rfilename for file in listed if file.rfilename.endswith(_PICKLES)]
        raise OspoError(
            asked,
            "has no safetensors" + (": weights in pickle form are refused, loading them can run any code" if pickles else ""),
            found=", ".join(pickles or [file.rfilename for file in listed][:5]) or "no files",
            expected="*.safetensors at the top",
            remedy="another revision or repository may have them",
        )
    # Some repositories hold a second copy of the weights under names of their makers.
    named = [file for file in weights if file.rfilename.startswith(("model", "adapter_model"))] or weights
    return [file for file in known if file not in weights or file in named]


def _check_space(stage: Path, size: int) -> None:
    free = shutil.disk_usage(stage).free
    if size > free:
        raise FileError(stage, "the disk has no room", found=f"{free:,} bytes", expected=f"{size:,}", remedy="free space")


def _check_content(asked: str, path: Path, listed: Any) -> None:
    """Raise, and remove the file, unless its bytes are those that the hub lists: SHA-256 of large files, git's SHA-1 of small ones."""
    if listed.lfs is not None:
        found, expected = files.sha256_of(path), listed.lfs.sha256
    else:
        content = path.read_bytes()
        found, expected = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest(), listed.blob_id
    if found != expected:
        path.unlink()
        raise OspoError(
            f"{asked}, {listed.rfilename}",
            "is not what the hub lists",
            found=found,
            expected=expected or "a hash",
            remedy="run the command again; if it stays, do not trust the server",
        )


def _unreachable(asked: str, revision: str | None, error: Exception) -> OspoError:
    pinned = f" --revision {revision}" if revision else ""
    command, _, repository = asked.partition(" ")
    name = repository.partition("/")[2]
    return OspoError(
        asked,
        "the hub cannot be reached",
        found=first_line(error),
        remedy=f"where there is a network run `ospo {asked}{pinned} --to {name}`, copy that folder here, then `ospo {command} ./{name}`",
    )
