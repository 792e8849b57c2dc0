"""The processes that torchrun starts for one command: who this one is, what all of them sum and gather, and which one speaks.

All hold the same rows and the same weights; each runs a part of the rows. Outside torchrun there is one process and nothing travels.
Arrays travel as bytes of NumPy's format, never as pickles.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ospo_cli.errors import OspoError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# A process that dies closes its connections, which the others see at once; this long they wait for one that lives: it may be writing.
PATIENCE = timedelta(minutes=60)
LOST = 75  # exit status of a process that ends because another one has
_FAILED, _ALONE = "ospo/failed", "ospo/alone"
_state = {"rank": 0, "count": 1, "stderr": -1, "cuts": 0}


def is_launched() -> bool:
    """Tell whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Return the number of this process, from 0."""
    return _state["rank"]


def count() -> int:
    """Return how many processes work together; 1 before `join`."""
    return _state["count"]


def cuts_weights() -> bool:
    """Tell whether each process holds a part of every weight only, by the first dimension."""
    return bool(_state["cuts"])


def on_this_machine() -> int:
    """Return how many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) if count() > 1 else 1


def is_first() -> bool:
    """Tell whether this is the process that writes files and prints."""
    return _state["rank"] == 0


def hush() -> None:
    """Under torchrun, let no process but the first print; what a library writes to the descriptors goes nowhere too."""
    if is_launched() and os.environ.get("RANK") != "0":
        nowhere = os.open(os.devnull, os.O_WRONLY)
        _state["stderr"] = os.dup(2)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)


def speaks() -> bool:
    """Tell whether this process is the one that names an error: of all that fail the first; its messages are seen from here on."""
    if is_launched() and count() == 1 and os.environ.get("RANK") != "0":  # not joined yet: all fail alike
        return False
    if count() > 1:
        try:
            if _store().add(_FAILED, 1) != 1:
                return False
        except Exception:  # the process that kept the store is gone, and has said why
            return False
    if _state["stderr"] >= 0:
        os.dup2(_state["stderr"], 2)
    return True


def is_loss_of_peer(error: BaseException) -> bool:
    """Tell whether an error says that another process is gone."""
    if count() == 1:
        return False
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def check_devices(wanted: int) -> None:
    """Raise OspoError where so many processes cannot have a GPU each; without any GPU they share the processor.

    Raises:
        OspoError: fewer GPUs than processes, or PyTorch lacks what they would speak through.
    """
    import torch
    import torch.distributed as dist

    if not torch.cuda.is_available():
        if not dist.is_available() or not dist.is_gloo_available():
            raise OspoError(
                "--gpus", "this build of PyTorch has no gloo", found=torch.__version__, remedy="install another, or use one process"
            )
        from ospo_cli.executors.usage import most_processes

        if wanted > most_processes():
            raise OspoError("--gpus", "is too large for a machine without GPUs", found=wanted, expected=f"at most {most_processes()}")
        return
    found = torch.cuda.device_count()
    if wanted > found:
        raise OspoError("--gpus", "fewer GPUs than processes", found=f"{found} GPUs", expected=f"at least {wanted}")
    if not dist.is_nccl_available():
        raise OspoError("--gpus", "this build of PyTorch has no NCCL", found=torch.__version__, remedy="install another, or use one GPU")


def join(cuts: bool = False, own: int | None = None, of: int | None = None, through: str = "env://") -> None:
    """Meet the other processes; each takes the GPU of its number where there are any.

    Args:
        cuts: each is to hold a part of every weight.
        own, of: number of this process and how many there are; None: as torchrun says.
        through: where they meet, as `torch.distributed.init_process_group` has it.

    Raises:
        OspoError: there are fewer GPUs than processes on this machine, or they cannot meet.
    """
    import torch
    import torch.distributed as dist

    own, of = int(os.environ["RANK"]) if own is None else own, int(os.environ["WORLD_SIZE"]) if of is None else of
    check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", of)))
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", own)))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", through, PATIENCE, world_size=of, rank=own)
    except (RuntimeError, ValueError) as error:
        found = str(error).splitlines()[0]
        raise OspoError("torchrun", "its processes cannot meet", found=found, remedy="give another port or address") from None
    _state.update(rank=own, count=of, cuts=cuts and of > 1)


def leave() -> None:
    """Part from the other processes."""
    if count() > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
        _state.update(rank=0, count=1, cuts=0)


def follow_first(has_begun: bool) -> None:
    """Wait until the first process says that it has the project; it may wait for another command itself."""
    if count() == 1:
        return
    if has_begun:
        _store().set(_ALONE, "1")
    else:
        _store().wait([_ALONE], timedelta(days=30))


def add_up(values: torch.Tensor) -> None:
    """Replace a tensor by its sum over the processes: the same bits in each."""
    if count() > 1:
        import torch.distributed as dist

        dist.all_reduce(values)


def own_part(weight: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a weight that is cut, in place; else the weight."""
    part: torch.Tensor = getattr(weight, "_local_tensor", weight)
    return part


def whole(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight on the CPU; one that is cut is put together, and the first process alone keeps it: the others' is empty."""
    found = weight.detach()
    if cuts_weights() and hasattr(found, "full_tensor"):
        found = found.full_tensor()
    return found.cpu().contiguous() if is_first() or not cuts_weights() else found.new_empty(0)


def cut_like(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return whole values as the weight is: on its device, and cut where it is cut."""
    if not cuts_weights():
        return values.to(weight.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    # Each process has read the values itself: nothing travels.
    return distribute_tensor(values.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)


def gathered(arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """Return the named arrays of every process, in the order of their numbers."""
    if count() == 1:
        return [dict(arrays)]
    import numpy as np
    import torch
    import torch.distributed as dist

    written = io.BytesIO()
    np.savez(written, allow_pickle=False, **arrays)
    own = torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    parts = [torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8) for _ in range(count())]
    dist.all_gather(parts, torch.nn.functional.pad(own, (0, len(parts[0]) - len(own))))
    found = []
    for part, size in zip(parts, sizes, strict=True):
        with np.load(io.BytesIO(part[: int(size)].numpy().tobytes()), allow_pickle=False) as content:
            found.append(dict(content))
    return found


def is_agreed(first_says: bool) -> bool:
    """Return what the first process says."""
    if count() == 1:
        return first_says
    import torch
    import torch.distributed as dist

    told = torch.tensor([first_says])
    dist.broadcast(told, 0)
    return bool(told)


def told_by_first(text: str) -> str:
    """Return the first process's text; none goes on before it has come here."""
    import numpy as np

    return str(gathered({"own": np.array(text)})[0]["own"])


def check_alike(what: str, own: str) -> None:
    """Raise OspoError where the processes do not all hold the same text."""
    import numpy as np

    found = [str(each["own"]) for each in gathered({"own": np.array(own)})]
    odd = next((number for number, each in enumerate(found) if each != found[0]), None)
    if odd is not None:
        raise OspoError(
            f"process {odd} of {count()}",
            f"its {what} are not those of process 0",
            remedy="give all machines the same folder and the same version of ospo",
        )


def _store() -> Any:
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()
