"""How much memory an update will need beyond the loaded policy, and whether it is there: an error before the work, not in its middle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ospo_cli.errors import PolicyError
from ospo_cli.executors import peers
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training.token_batches import Group, arranged, attention_window, micro_batches
from ospo_cli.training.token_logprobs import LOGITS_AT_ONCE

GIB = 1 << 30
_FLOAT = 4
# On a CPU the C library's heap takes more than what is in use: temporaries leave holes between what the layers keep for the backward pass.
# Fitted to measured peaks: 1.2 to 1.5 times at 3 and 4 layers, 2.0 to 2.9 at 30. A CUDA device's allocator has next to none.
_HOLES, _HOLES_PER_LAYER, _MOST_HOLES = 1.2, 0.05, 2.8
_LIBRARIES = 64 << 20  # what matrix libraries allocate when they are first used


def needed_bytes(policy: LoadedPolicy, groups: Sequence[Group], settings: Update) -> int:
    """Return an estimate of what the update takes beyond the loaded policy: weights, gradients, moments and the widest micro-batch.

    Per token and layer a transformer keeps about ten vectors of the model's width and four of the feed-forward's for the backward pass,
    and in packed rows a row of the mask; with gradient checkpointing one of the width, and one layer's all. Weights count once more: a
    file that is mapped takes memory when its weights are first read, and those that train are copied.
    """
    config: Any = policy.model.config
    every: int = sum(weight.numel() for weight in policy.model.parameters())
    trained: int = sum(weight.numel() for weight in policy.model.parameters() if weight.requires_grad)
    hidden, layers = int(getattr(config, "hidden_size", 0)), int(getattr(config, "num_hidden_layers", 0))
    head_trains = trained == every
    if peers.cuts_weights():  # two layers at most are whole at a time
        every, trained = every // peers.count() + 2 * every // max(layers, 1), trained // peers.count()
    kept = 10 * hidden + 4 * int(getattr(config, "intermediate_size", None) or 4 * hidden)
    vocabulary = int(getattr(config, "vocab_size", 0))

    def activations(part: list[Group]) -> int:
        width = max(group.width for group in part)
        layer = kept + (width if any(len(group.completions) > 1 for group in part) else 0)
        per_token = layers * hidden + layer if settings.gradient_checkpointing else layers * layer
        return len(part) * width * per_token

    parts = micro_batches(arranged(groups, attention_window(config)), settings.tokens_per_micro_batch)
    widest = max(map(activations, parts), default=0)
    targets = max((sum(group.tokens for group in part) for part in parts), default=0)
    logits = min(6 * LOGITS_AT_ONCE, 3 * targets * vocabulary)
    head = 2 * hidden * vocabulary if head_trains else 0  # the output embedding's gradient of a part, before it is added
    if settings.precision != "float32":
        # Frozen weights are kept in 16 bits for the backward pass.
        return _FLOAT * (4 * trained + logits + head) + 2 * (every + widest)
    needed = _FLOAT * (4 * trained + logits + head)
    if policy.device.type == "cpu":
        holes = min(_HOLES + _HOLES_PER_LAYER * layers, _MOST_HOLES)
        return needed + _FLOAT * every + int(_FLOAT * holes * widest) + _LIBRARIES
    return needed + _FLOAT * widest


def check_memory(policy: LoadedPolicy, groups: Sequence[Group], settings: Update) -> int:
    """Return the estimate in bytes; raise PolicyError where less than that is free."""
    # Processes of one machine share its memory; each GPU is one process's.
    sharing = peers.on_this_machine() if policy.device.type == "cpu" else 1
    needed, free = sharing * needed_bytes(policy, groups, settings), free_bytes(policy.device)
    if needed > free:
        raise PolicyError(
            "memory",
            "the update needs more than is free",
            found=f"{free / GIB:.2f} GiB free",
            expected=f"at least {needed / GIB:.2f} GiB",
            remedy="lower update.tokens_per_micro_batch, set update.gradient_checkpointing, or train an adapter (policy.lora_rank)",
        )
    return needed


def free_bytes(device: torch.device) -> int:
    """Return the memory that may still be taken on the device: of the GPU, or of the machine and the container around this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [_available(Path("/proc/meminfo"))]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            # Pages of files count as used there and are given back when asked for: only the whole limit is sure to be out of reach.
            limits.append(int(Path(limit).read_text()) - min(int(Path(used).read_text()), _resident()))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return min(limits)


def _available(path: Path) -> int:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: the machine's whole memory is all that is known
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
