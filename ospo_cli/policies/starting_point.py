"""What training starts from: a small model from nothing, a copy of a pretrained folder, or a fresh adapter over one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ospo_cli.params.policy import Policy
from ospo_cli.policies.folder import LoadedPolicy, check_folder, copy_weights
from ospo_cli.policies.opening import load_policy, read_policy, record
from ospo_cli.policies.pretrained import PACKAGED


def write_starting_point(folder: Path, project: Path, policy: Policy, seed: int, texts: Callable[[], Iterable[str]]) -> None:
    """Write the untrained policy 000 that the parameters ask for.

    Args:
        folder: where it goes.
        project: folder that `policy.base` is relative to.
        policy: section policy. With base: config and a LoRA rank the full weights are made here, and update puts adapters over them.
        seed: root seed.
        texts: gives the text that the tokenizer of a new small model is trained on.
    """
    if policy.load_in_4bit:
        from ospo_cli.policies.four_bits import check_quantization

        check_quantization(policy)
    if policy.base == "config":
        from ospo_cli.policies.small_llama import write_small_llama

        write_small_llama(texts(), policy, seed, folder)
        record(folder, read_policy(folder).declared)
        return
    base = project / policy.base
    name = Path(policy.base).name
    check_folder(base, made_by=f"ospo fetch-policy {name}" if name in PACKAGED else "")
    # What does not fit is said here, and not after the first training.
    declared = read_policy(base, project=project).declared
    if policy.lora_rank:
        from ospo_cli.policies.lora import write_fresh_adapter

        write_fresh_adapter(folder, base, project, policy, seed)
        record(folder, declared)
        return
    load_policy(base, policy.threads, project=project)  # weights that do not fit the configuration
    copy_weights(base, folder)
    record(folder, declared)


def adapted(policy: LoadedPolicy, project: Path, settings: Policy, seed: int) -> LoadedPolicy:
    """Return the policy as update is to train it: full weights under a LoRA rank get a fresh adapter over their own folder."""
    if settings.load_in_4bit:
        from ospo_cli.policies.four_bits import check_quantization

        check_quantization(settings)
    if not settings.lora_rank or policy.is_adapter:
        return policy
    from ospo_cli.policies.lora import with_fresh_adapter

    return with_fresh_adapter(policy, project, settings, seed)
