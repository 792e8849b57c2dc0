"""Sampling from any causal language model: what rows share is computed once, one uniform per (seed, row, position)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ospo_cli.errors import PolicyError
from ospo_cli.maths import seeding
from ospo_cli.params.rollout import Rollout
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.sampling import llama_decoder
from ospo_cli.sampling.next_token import draw
from ospo_cli.sampling.sampler import CompletionSampler, Request, SampledRow, too_long

OPEN_SHARE = 15 / 16


class Sampler(CompletionSampler):
    """Draws completions; which tokens come out depends on (policy, prompt, seed, row id) and not on what else is in the batch.

    Rows of a rollout group with the same tokens so far are one branch: one row of the forward pass. Prompts are branches before the
    first token; a branch splits where its rows draw different tokens and goes when they have ended.
    """

    needs_weights = True

    def __init__(self, policy: LoadedPolicy) -> None:
        self.policy = policy
        plain = llama_decoder.fits(policy.model)
        self.decoder: Any = llama_decoder.LlamaDecoder(policy.model) if plain else HuggingFaceDecoder(policy.model)

    @classmethod
    def opened(cls, policy: LoadedPolicy, settings: Rollout, threads: int, longest_prompt: int) -> Sampler:
        """Return the sampler; threads are torch's, set when the policy was loaded."""
        return cls(policy)

    def too_long(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
        """Return the indices of prompts that do not fit the context together with the new tokens (or are empty)."""
        return too_long(self.policy, prompts, max_new_tokens)

    def sample(self, request: Request, greedy_rows: int = 0) -> list[list[SampledRow]]:
        """Return for each prompt one completion per row id; the first `greedy_rows` of each take the likeliest token in place of a draw.

        Raises:
            PolicyError: a prompt does not fit the context, or the model gives NaN.
        """
        prompts, row_ids = request.prompts, request.row_ids
        for index in self.too_long(prompts, request.max_new_tokens)[:1]:
            raise PolicyError(
                self.policy.folder,
                f"prompt {index} (of {row_ids[index][0] if row_ids[index] else 'no rows'}) does not fit the context",
                found=f"{len(prompts[index])} prompt tokens + {request.max_new_tokens} new",
                expected=f"1 to {self.policy.context_length} in all",
                remedy="shorten the prompt template or lower rollout.max_new_tokens",
            )
        results: list[list[SampledRow]] = [[] for _ in prompts]
        for batch in _batches([len(prompt) for prompt in prompts], [len(ids) for ids in row_ids], request.batch_size):
            part = dataclasses.replace(request, prompts=[prompts[i] for i in batch], row_ids=[row_ids[i] for i in batch])
            for index, group in zip(batch, self._sample_batch(part, greedy_rows), strict=True):
                results[index] = group
        return results

    @torch.inference_mode()
    def _sample_batch(self, request: Request, greedy_rows: int) -> list[list[SampledRow]]:
        prompts, row_ids, cap = request.prompts, request.row_ids, request.max_new_tokens
        names = [name for name, _ in request.rows]
        if not names:
            return [[] for _ in prompts]
        device = self.policy.device
        greedy = torch.tensor([index < greedy_rows for group in row_ids for index in range(len(group))], device=device)
        uniforms = np.zeros((len(names), cap)) if bool(greedy.all()) else seeding.uniforms(request.seed, names, cap)
        draws = torch.from_numpy(uniforms).to(device)
        tokens = torch.full((len(names), cap), -1, dtype=torch.int64, device=device)
        logprobs = torch.zeros((3, len(names), cap), dtype=torch.float32, device=device)
        ends = torch.tensor(self.policy.end_token_ids, device=device)
        # The rows that still go on, and the branch that each stands on.
        rows = torch.arange(len(names), device=device)
        branch = torch.tensor([index for index, group in enumerate(row_ids) for _ in group], device=device)
        logits = self.decoder.prefill(prompts, self.policy.pad_token_id, device, cap, len(names))
        for position in range(cap):
            found = draw(logits, branch, draws[rows, position], greedy[rows], request.sampling, self.policy.unspelled)
            bad = rows[~torch.isfinite(found.logprobs + found.policy_logprobs)].tolist()
            if bad:
                self.decoder.clear()
                raise PolicyError(
                    self.policy.folder,
                    f"the model gives NaN or infinite logits for {names[bad[0]]} at position {position}",
                    found=f"{len(bad)} such of {len(rows)} rows",
                    remedy="restore its weights, or train it again with a lower learning rate",
                )
            tokens[rows, position] = found.token
            logprobs[:, rows, position] = torch.stack([found.logprobs, found.sampled_logprobs, found.policy_logprobs])
            going = ~torch.isin(found.token, ends)
            rows, branch, token = rows[going], branch[going], found.token[going]
            if position + 1 == cap or not len(rows):
                break
            branch, token = self._grow(branch, token, len(logits), logits.shape[-1])
            logits = self.decoder.step(token)
        self.decoder.clear()
        first, second, third = logprobs.tolist()
        return request.grouped(self._row(*row) for row in zip(tokens.tolist(), first, second, third, strict=True))

    def _grow(self, branch: torch.Tensor, token: torch.Tensor, count: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Split, merge and drop branches; return the new branch of each row [rows] and the token of each branch."""
        distinct, branch = torch.unique(branch * vocabulary + token, return_inverse=True)
        parents, token = distinct // vocabulary, distinct % vocabulary
        splits = bool((parents[1:] == parents[:-1]).any())
        if not splits and len(parents) > count * OPEN_SHARE:
            # Ended branches are dropped in lots, since dropping copies the cache: until then they go on with any token.
            filled = token[:1].repeat(count)
            filled[parents] = token
            return parents[branch], filled
        # The first of a parent's branches stays where the parent was; only others, and those beyond the new end, are copied.
        places = torch.arange(len(parents), device=parents.device)
        stays = parents < len(parents)
        stays[1:] &= parents[1:] != parents[:-1]
        is_free = torch.ones_like(stays)
        is_free[parents[stays]] = False
        place = torch.empty_like(parents)
        place[stays], place[~stays] = parents[stays], places[is_free]
        order = torch.empty_like(parents)
        order[place] = places
        self.decoder.select(parents[order])
        return place[branch], token[order]

    def _row(self, ids: list[int], *logprobs: list[float]) -> SampledRow:
        length = ids.index(-1) if -1 in ids else len(ids)
        ids = ids[:length]
        tempered, sampled, policy = (values[:length] for values in logprobs)
        reason = "stop" if ids[-1] in self.policy.end_token_ids else "length"
        return SampledRow(ids, tempered, sampled, policy, reason, self.policy.pieces.text(ids))


class HuggingFaceDecoder:
    """Key/value cache and forward passes of any transformers model; prompts are padded on the left."""

    cache: Any

    def __init__(self, model: Any) -> None:
        self.model = model
        self.clear()

    def prefill(self, prompts: Sequence[Sequence[int]], pad: int, device: torch.device, max_new_tokens: int, _: int) -> torch.Tensor:
        """Read the prompts; return the logits [prompts, vocabulary] of the first new token."""
        from ospo_cli.sampling.roomy_cache import roomy_cache

        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        self.mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        positions = (self.mask.cumsum(1) - 1).clamp_(min=0)
        self.cache = roomy_cache(self.model.config, width + max_new_tokens)
        logits: torch.Tensor = self.model(
            input_ids=ids, attention_mask=self.mask, position_ids=positions, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        ).logits
        self.position = positions[:, -1]
        return logits[:, -1]

    def select(self, rows: torch.Tensor) -> None:
        """Keep (or repeat) these rows of the cache."""
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Append one token per row; return the logits [rows, vocabulary] of the next."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self.position = self.position + 1
        places = {"input_ids": token[:, None], "attention_mask": self.mask, "position_ids": self.position[:, None]}
        logits: torch.Tensor = self.model(**places, past_key_values=self.cache, use_cache=True).logits
        return logits[:, -1]

    def clear(self) -> None:
        """Forget the batch."""
        self.cache = None
        self.mask = self.position = torch.empty(0)


def _batches(lengths: Sequence[int], group_sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return lists of prompt indices, prompts of like length together, at most batch_size rows each (one group at least)."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    batches: list[list[int]] = []
    rows = 0
    for index in order:
        if not batches or rows + group_sizes[index] > batch_size:
            batches.append([])
            rows = 0
        batches[-1].append(index)
        rows += group_sizes[index]
    return batches
