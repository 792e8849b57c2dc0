"""Sampling from any causal language model: prompts prefilled once per rollout group, one uniform per (seed, row, position)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ospo_cli.errors import PolicyError
from ospo_cli.maths import seeding
from ospo_cli.policies.folder import LoadedPolicy

OPEN_SHARE = 15 / 16


@dataclass(frozen=True)
class SampledRow:
    """One completion: ids with the end token where it was sampled, natural log-probabilities at the sampling temperature."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    text: str


class Sampler:
    """Draws completions; which tokens come out depends on (policy, prompt, seed, row id) and not on what else is in the batch.

    Floating-point sums are taken in another order when a batch has another shape: log-probabilities then differ in the sixth digit,
    and a draw that falls that close to a border between two tokens can differ.
    """

    def __init__(self, policy: LoadedPolicy) -> None:
        self.policy = policy
        self.decoder = HuggingFaceDecoder(policy.model)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        row_ids: Sequence[Sequence[str]],
        max_new_tokens: int,
        temperature: float,
        seed: int,
        batch_size: int,
        greedy: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[SampledRow]]:
        """Return for each prompt one completion per row id.

        Args:
            prompts: token ids of each prompt.
            row_ids: names of the completions of each prompt (a rollout group); they key the uniforms.
            max_new_tokens: cap, end token included.
            temperature: divides the logits; log-probabilities are those of the tempered distribution.
            seed: of the uniforms.
            batch_size: completions decoded at once.
            greedy: the likeliest token at temperature 1 in place of a draw.
            progress: called with the number of finished completions after each batch.

        Raises:
            PolicyError: a prompt does not fit the context, or the model gives NaN.
        """
        for index, prompt in enumerate(prompts):
            if not prompt or len(prompt) + max_new_tokens > self.policy.context_length:
                raise PolicyError(
                    self.policy.folder,
                    f"prompt {index} (of {row_ids[index][0] if row_ids[index] else 'no rows'}) does not fit the context",
                    found=f"{len(prompt)} prompt tokens + {max_new_tokens} new",
                    expected=f"1 to {self.policy.context_length} in all",
                    remedy="shorten the prompt template or lower rollout.max_new_tokens",
                )
        results: list[list[SampledRow]] = [[] for _ in prompts]
        for batch in _batches([len(prompt) for prompt in prompts], [len(ids) for ids in row_ids], batch_size):
            rows = self._sample_batch(
                [prompts[i] for i in batch], [row_ids[i] for i in batch], max_new_tokens, 1.0 if greedy else temperature, seed, greedy
            )
            for index, group in zip(batch, rows, strict=True):
                results[index] = group
            if progress:
                progress(sum(len(row_ids[i]) for i in batch))
        return results

    @torch.inference_mode()
    def _sample_batch(
        self, prompts: list[Sequence[int]], row_ids: list[Sequence[str]], max_new_tokens: int, temperature: float, seed: int, greedy: bool
    ) -> list[list[SampledRow]]:
        names = [name for group in row_ids for name in group]
        if not names:
            return [[] for _ in prompts]
        draws = torch.from_numpy(np.zeros((len(names), max_new_tokens)) if greedy else seeding.uniforms(seed, names, max_new_tokens)).to(
            self.policy.device
        )
        owner = torch.tensor([index for index, group in enumerate(row_ids) for _ in group], device=self.policy.device)
        logits = self.decoder.prefill(prompts, self.policy.pad_token_id, self.policy.device, max_new_tokens)[owner]
        self.decoder.select(owner)
        tokens = torch.full((len(names), max_new_tokens), -1, dtype=torch.int64)
        logprobs = torch.zeros((len(names), max_new_tokens), dtype=torch.float32)
        # Rows of the batch: which completion each is, and whether it still goes on. Finished ones are dropped in lots, since dropping
        # copies the cache.
        rows = torch.arange(len(names))
        is_open = torch.ones(len(names), dtype=torch.bool)
        for position in range(max_new_tokens):
            found = draw(logits, temperature, None if greedy else draws[rows.to(draws.device), position])
            token, logprob = found[0].cpu(), found[1].cpu()
            if not bool(torch.isfinite(logprob[is_open]).all()):
                bad = int(rows[is_open & ~torch.isfinite(logprob)][0])
                raise PolicyError(
                    self.policy.folder,
                    f"the model gives NaN or infinite logits for {names[bad]} at position {position}",
                    remedy="train again with a lower learning rate",
                )
            tokens[rows[is_open], position], logprobs[rows[is_open], position] = token[is_open], logprob[is_open]
            is_open &= token != self.policy.end_token_id
            going = int(is_open.sum())
            if position + 1 == max_new_tokens or going == 0:
                break
            if going <= len(rows) * OPEN_SHARE:
                kept = torch.nonzero(is_open)[:, 0]
                self.decoder.select(kept.to(self.policy.device))
                rows, token, is_open = rows[kept], token[kept], is_open[kept]
            logits = self.decoder.step(token.to(self.policy.device))
        self.decoder.clear()
        made = [self._row(ids, values) for ids, values in zip(tokens.tolist(), logprobs.tolist(), strict=True)]
        ends = np.cumsum([len(group) for group in row_ids])
        return [made[end - len(group) : end] for end, group in zip(ends.tolist(), row_ids, strict=True)]

    def _row(self, ids: list[int], logprobs: list[float]) -> SampledRow:
        length = ids.index(-1) if -1 in ids else len(ids)
        ids = ids[:length]
        return SampledRow(ids, logprobs[:length], "stop" if ids[-1] == self.policy.end_token_id else "length", self.policy.pieces.text(ids))


def draw(logits: torch.Tensor, temperature: float, uniform: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token [rows] and its log-probability [rows] from logits [rows, vocabulary]: inverse CDF, or the likeliest without uniforms.

    torch.multinomial is 20 times slower on a CPU and its draws depend on the batch.
    """
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    if uniform is None:
        token = logprobs.argmax(dim=-1)
    else:
        cumulative = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)
        # The last sum is 1 up to rounding; scaling by it keeps the index inside the vocabulary and off tokens of probability 0.
        token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    return token, logprobs.gather(1, token[:, None])[:, 0]


class HuggingFaceDecoder:
    """Key/value cache and forward passes of any transformers model; prompts are padded on the left."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.clear()

    def prefill(self, prompts: Sequence[Sequence[int]], pad: int, device: torch.device, max_new_tokens: int) -> torch.Tensor:
        """Read the prompts; return the logits [prompts, vocabulary] of the first new token."""
        from ospo_cli.policies.roomy_cache import roomy_cache

        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        self.mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        positions = (self.mask.cumsum(1) - 1).clamp_(min=0)
        self.cache = roomy_cache(self.model.config, width + max_new_tokens)
        output = self.model(
            input_ids=ids, attention_mask=self.mask, position_ids=positions, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        self.position = positions[:, -1]
        return output.logits[:, -1]

    def select(self, rows: torch.Tensor) -> None:
        """Keep (or repeat) these rows of the cache."""
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Append one token per row; return the logits [rows, vocabulary] of the next."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self.position = self.position + 1
        output = self.model(
            input_ids=token[:, None],
            attention_mask=self.mask,
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    def clear(self) -> None:
        """Forget the batch."""
        self.cache: Any = None
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
