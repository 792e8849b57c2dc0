"""A policy folder opened for sampling or training, and written again: full weights, or a LoRA adapter over a base."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ospo_cli.errors import PolicyError, first_line
from ospo_cli.executors import heap, kept, peers
from ospo_cli.policies import chat_template, declarations, llama_kinds, lora, plain_llama
from ospo_cli.policies.folder import (
    CARD,
    LoadedPolicy,
    check_folder,
    content_hash,
    copy_tokenizer,
    hide_progress_bars,
    load_model,
    load_tokenizer,
)
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.tables.files import read_json, write_json

# Of a policy that is kept from stage to stage, an adapter's base included: a larger one takes memory that other stages may need, and its
# steps take so long that loading is little beside them.
MOST_KEPT_BYTES = 1 << 30


def open_policy(folder: Path, threads: int, *, trainable: bool = False, made_by: str = "", project: Path | None = None) -> LoadedPolicy:
    """Return the policy of a folder as `load_policy` does; within `ospo run`, the one that an earlier stage left (`keep`).

    One that is to be trained belongs to the caller alone: its weights are about to move. Where an adapter is kept, it lies beside its base
    for sampling too, which merges the two as it packs the weights (`LlamaDecoder`).
    """
    check_folder(folder, made_by)
    policy: LoadedPolicy | None = kept.take("policy", _origin(folder)) if kept.is_on() else None
    if policy is None:
        is_apart = kept.is_on() and lora.is_adapter(folder) and not lora.is_over_4_bits(folder)
        policy = load_policy(folder, threads, trainable=trainable or is_apart, made_by=made_by, project=project)
        if is_apart and not trainable and not is_kept(policy):
            policy.model = policy.model.merge_and_unload()
    torch.set_num_threads(threads)
    if is_kept(policy):
        if not policy.is_adapter:  # of an adapter the base never trains
            policy.model.requires_grad_(trainable)
        if not trainable:
            keep(policy)
    return policy


def is_kept(policy: LoadedPolicy) -> bool:
    """Tell whether `ospo run` keeps a policy for the next stage: a small plain one, which rollout and update use alike."""
    is_alike = isinstance(policy.model, plain_llama.PlainLlama) or (policy.is_adapter and llama_kinds.fits(policy.model))
    if not kept.is_on() or not is_alike or peers.count() > 1:
        return False
    held: int = sum(weight.nbytes for weight in policy.model.parameters())
    return held <= MOST_KEPT_BYTES


def keep(policy: LoadedPolicy) -> None:
    """Keep a policy for the next stage, and one other: the reference that updates compare with."""
    kept.put("policy", _origin(policy.folder), policy, most=2)


@contextlib.contextmanager
def keeping(policy: LoadedPolicy, folder: Path) -> Iterator[None]:
    """Keep a policy that has just been written to a folder as a stage would read it from there, wherever the block moves its weights."""
    if not is_kept(policy):
        yield
        return
    weights = {weight: weight.detach().clone() for weight in policy.model.parameters() if weight.requires_grad}
    yield
    with torch.no_grad():
        for weight, value in weights.items():
            weight.copy_(value)
    policy.tokenizer.name_or_path = str(folder)
    policy.model.eval()
    if isinstance(policy.model, plain_llama.PlainLlama):
        policy.model.model.is_recomputed = False
    keep(dataclasses.replace(policy, folder=folder, content_hash=content_hash(folder)))


def _origin(folder: Path) -> tuple[Path, str]:
    return folder.resolve(), content_hash(folder)


def load_policy(folder: Path, threads: int, *, trainable: bool = False, made_by: str = "", project: Path | None = None) -> LoadedPolicy:
    """Return the policy of a folder; an adapter is merged into its base, or kept apart where it is to be trained.

    Args:
        folder: model folder, or adapter folder with `ospo_policy.json` that names the base.
        threads: threads of torch.
        trainable: full weights (or the adapter's alone) get gradients.
        made_by: command that makes the folder, for the error where it is missing.
        project: folder that an adapter's base path is relative to; found among the folder's parents where it is not given.

    Raises:
        PolicyError: something is missing, unreadable, unsafe (pickle, remote code) or does not belong together.
    """
    check_folder(folder, made_by)
    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(folder)
    if lora.is_adapter(folder):
        model, card = lora.load_adapter(folder, project, trainable=trainable)
        base, _ = lora.base_of(folder, project)
    else:
        model, card, base = plain_llama.read(folder) or load_model(folder), None, folder
        model.requires_grad_(trainable)
    model.eval()  # dropout only where a training step turns it on
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        heap.keep_freed()
    if not peers.cuts_weights():  # else each process takes its part there
        model.to(device)
    return _loaded(folder, model, model.config, tokenizer, device, (base, card))


def read_policy(folder: Path, made_by: str = "", project: Path | None = None) -> LoadedPolicy:
    """Return the policy of a folder without its weights (`model` is None), for a sampler that holds them elsewhere; checks are the same."""
    from transformers import AutoConfig

    check_folder(folder, made_by)
    base, card = lora.base_of(folder, project) if lora.is_adapter(folder) else (folder, None)
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a broken folder
        raise PolicyError(base, "the configuration cannot be read", found=first_line(error), remedy="restore the folder") from None
    return _loaded(folder, None, config, load_tokenizer(folder), torch.device("cpu"), (base, card))


def _loaded(
    folder: Path, model: Any, config: Any, tokenizer: Any, device: torch.device, base: tuple[Path, dict[str, Any] | None]
) -> LoadedPolicy:
    """Return the policy with what its folder declares, read and tried; base: folder of the configuration, and an adapter's card."""
    pieces = TokenPieces.from_file(folder / "tokenizer.json")
    size = int(config.get_text_config().vocab_size)
    declared = declarations.read(folder, base[0], tokenizer, pieces, size, chat_template.tried(folder, tokenizer))
    end, *further = declared.end_token_ids
    return LoadedPolicy(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        pieces=pieces,
        end_token_id=end,
        context_length=int(getattr(config, "max_position_embeddings", None) or 1 << 30),
        content_hash=content_hash(folder),
        device=device,
        adapter_card=base[1],
        further_end_ids=tuple(further),
        vocabulary_size=size,
        unspelled=torch.tensor(declared.unspelled, device=device) if declared.unspelled else None,
        declared=declared.card,
    )


def save_policy(policy: LoadedPolicy, folder: Path) -> None:
    """Write the model (or the adapter alone), the tokenizer and a card into an existing folder.

    Of several processes the first does; where weights are cut all must call this, to put them together.
    """
    weights = _put_together(policy) if peers.cuts_weights() else None
    if not peers.is_first():
        return
    if policy.adapter_card is not None:
        lora.write_adapter(policy.model, folder, policy.adapter_card, weights)
    else:
        for path in folder.glob("*.safetensors"):
            path.unlink()  # never written in place: the weights in memory may be mapped from the very file
        if isinstance(policy.model, plain_llama.PlainLlama):
            policy.model.save(policy.folder, folder, weights)
        else:
            hide_progress_bars()
            policy.model.save_pretrained(folder, safe_serialization=True, state_dict=weights)
    copy_tokenizer(policy.folder, folder)
    record(folder, policy.declared)


def _put_together(policy: LoadedPolicy) -> dict[str, torch.Tensor]:
    """Return the weights by name, those of an adapter alone where there is one; two names of one weight have one tensor."""
    named = dict(policy.model.named_parameters(remove_duplicate=False))
    wanted = {name: weight for name, weight in named.items() if weight.requires_grad or not policy.is_adapter}
    found = {weight: peers.whole(weight) for weight in wanted.values()}
    return {name: found[weight] for name, weight in wanted.items()}


def record(folder: Path, declared: dict[str, Any]) -> None:
    """Write what a policy's folder declares into its card, beside what the card says already."""
    path = folder / CARD
    card = read_json(path) if path.is_file() else {}
    write_json(path, card | {declarations.KEY: declared}, ensure_ascii=False)
