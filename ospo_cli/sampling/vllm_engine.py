"""vLLM's offline engine as a sampler, in a process of its own: what hangs or crashes there is an error here."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ospo_cli.errors import ParameterError, PolicyError, of_extra, shorten
from ospo_cli.executors.processes import Program
from ospo_cli.params.rollout import Rollout, Vllm
from ospo_cli.policies import lora
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import CompletionSampler, Request, SampledRow, checked_ids, checked_logprobs
from ospo_cli.tables.files import read_json

TESTED = "0.32"
PYTHON = "OSPO_VLLM_PYTHON"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_WHO = "sampler vllm"


class VllmSampler(CompletionSampler):
    """Draws completions with `vllm.LLM`; the engine starts with the first call of `sample` and ends with `close`.

    Each completion is a request of its own with a seed from (seed, row id). Sums still depend on what else is in the engine's batch, so
    that a token may change where two are nearly equal.

    Log-probabilities: the engine gives those of the distribution that it drew from (logprobs_mode processed_logprobs). Where that is not
    the raw policy too, a second pass of the engine over the finished rows gives the raw policy's (prompt_logprobs). Temperature together
    with cuts is refused: neither pass gives the tempered policy without cuts, which the update needs; so are both for an adapter, whose
    rows the engine cannot score.

    Args:
        policy: opening.read_policy of the folder that is sampled.
        settings: section rollout.vllm.
        context_length: prompt and new tokens of the longest rollout that will be asked for.
        threads: of the engine, on a CPU.
        worker: program that holds the engine.
    """

    def __init__(self, policy: LoadedPolicy, settings: Vllm, context_length: int, threads: int = 1, worker: Path | None = None) -> None:
        self.policy, self.settings, self.context_length, self.threads = policy, settings, context_length, threads
        self.worker = worker or Path(str(importlib.util.find_spec("ospo_cli.sampling.vllm_worker").origin))  # type: ignore[union-attr]
        self._process: _Process | None = None

    @classmethod
    def opened(cls, policy: LoadedPolicy, settings: Rollout, threads: int, longest_prompt: int) -> VllmSampler:
        """Return the sampler of rollout.vllm."""
        return cls(policy, settings.vllm, longest_prompt + settings.max_new_tokens, threads)

    @classmethod
    def check(cls, sampling: Sampling, policy: LoadedPolicy) -> None:
        """Raise ParameterError where the engine cannot give every log-probability that a rollout holds."""
        is_plain = sampling.temperature == 1.0 and not sampling.cuts
        if policy.unspelled is not None and not is_plain:
            raise ParameterError(
                "rollout.sampler",
                "vllm scores rows over the whole vocabulary of the model, and this policy's tokenizer does not spell all of it",
                found=f"{len(policy.unspelled)} ids that are never drawn; {_described(sampling)}",
                expected="temperature 1, top_k 0, top_p 1",
                remedy="change them, or take rollout.sampler: transformers",
            )
        if policy.is_adapter and not is_plain:
            # vLLM 0.32: prompt_logprobs of a LoRA request end in `einsum(): subscript b has size …` on a CPU.
            raise ParameterError(
                "rollout.sampler",
                "vllm cannot score the rows of an adapter, which temperature and cuts need",
                found=_described(sampling),
                expected="temperature 1, top_k 0, top_p 1",
                remedy="change them, or take rollout.sampler: transformers",
            )
        if sampling.cuts and sampling.temperature != 1.0:
            raise ParameterError(
                "rollout.sampler",
                "vllm gives log-probabilities after temperature and cuts, or of the raw policy, but not the tempered policy's without cuts",
                found=f"temperature {sampling.temperature:g} with top_k {sampling.top_k}, top_p {sampling.top_p:g}",
                expected="temperature 1, or top_k 0 and top_p 1",
                remedy="change them, or take rollout.sampler: transformers",
            )

    @classmethod
    def identity(cls, settings: Rollout) -> list[object]:
        """Return the number format and over how many devices it is spread: both change sums."""
        return ["vllm", settings.vllm.dtype, settings.vllm.tensor_parallel]

    def sample(self, request: Request) -> list[list[SampledRow]]:
        """Return for each prompt one completion per row id; batch_size is left to the engine.

        Raises:
            ParameterError: the engine cannot give the log-probabilities of this sampling.
            PolicyError: the engine is absent, does not start, fails, or does not answer in time.
        """
        sampling, cap = request.sampling, request.max_new_tokens
        self.check(sampling, self.policy)
        needs_scores = sampling.cuts or sampling.temperature != 1.0
        self._check_room(request.prompts, cap + needs_scores)
        names = [name for name, _ in request.rows]
        if not names:
            return [[] for _ in request.prompts]
        asked = [[list(prompt), request_seed(request.seed, name)] for name, prompt in request.rows]
        what = f"{len(names)} completions from {names[0]} on"
        # The policy's end tokens alone end a completion. Ids that the tokenizer does not spell are masked before log-probabilities are
        # taken (processed_logprobs), which are then those of the other ids.
        allowed = {} if self.policy.unspelled is None else {"allowed_token_ids": self.policy.drawn_ids}
        settings = {
            **{"n": 1, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p},
            **{"max_tokens": cap, "logprobs": 0, "detokenize": False},
            **{"ignore_eos": True, "stop_token_ids": self.policy.end_token_ids},
            **allowed,
        }
        found = self._ask({"sample": asked, "settings": settings}, "rows", len(names), what)
        rows = []
        for name, (ids, logprobs, reason) in zip(names, found, strict=True):
            ids = checked_ids(self.policy, name, ids, cap, reason, _WHO)
            rows.append((ids, checked_logprobs(name, logprobs, len(ids), _WHO), reason))
        policy_logprobs = [logprobs for _, logprobs, _ in rows]
        if needs_scores:
            pairs = [[prompt, ids] for (prompt, _), (ids, _, _) in zip(asked, rows, strict=True)]
            scored = self._ask({"score": pairs}, "logprobs", len(names), f"scores of {what}")
            policy_logprobs = [
                checked_logprobs(name, values, len(ids), _WHO) for name, values, (ids, _, _) in zip(names, scored, rows, strict=True)
            ]
        return request.grouped(
            # With cuts the temperature is 1: the raw policy is the tempered one.
            SampledRow(ids, raw if sampling.cuts else drawn, drawn, raw, reason, self.policy.pieces.text(ids))
            for (ids, drawn, reason), raw in zip(rows, policy_logprobs, strict=True)
        )

    def close(self) -> None:
        """End the engine's process."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _check_room(self, prompts: Sequence[Sequence[int]], further: int) -> None:
        longest = max((len(prompt) for prompt in prompts), default=0) + further
        if longest > self.policy.context_length:
            raise PolicyError(
                _WHO,
                "prompt and new tokens do not fit the context (temperature and cuts need one token more)",
                found=longest,
                expected=f"at most {self.policy.context_length}",
                remedy="lower rollout.max_new_tokens",
            )

    def _ask(self, content: dict[str, Any], key: str, count: int, what: str) -> list[Any]:
        if self._process is None:
            self._process = self._started()
        try:
            answer = self._process.ask(content, self.settings.timeout_seconds, what, "rollout.vllm.timeout_seconds")
        except BaseException:
            self.close()  # the next call starts another
            raise
        values = answer.get(key)
        if not isinstance(values, list) or len(values) != count:
            self.close()
            raise PolicyError(_WHO, f"the engine's answer to {what} is none", found=answer.get("error", ", ".join(answer)), expected=key)
        return values

    def _started(self) -> _Process:
        model, adapter, rank = self.policy.folder, None, 0
        if self.policy.is_adapter:
            model, card = lora.base_of(self.policy.folder, None)
            if card.get("bits"):
                raise PolicyError(
                    self.policy.folder,
                    "sampler vllm: the engine puts this adapter over full weights, and it was trained over others",
                    found=f"base in {card['bits']} bits",
                    remedy="take rollout.sampler: transformers",
                )
            adapter = str(self.policy.folder.resolve())
            rank = int(read_json(self.policy.folder / lora.CONFIGURATION)["r"])
        # Scores are of whole rows, and one token more is drawn behind them.
        longest = min(self.context_length + 1, self.policy.context_length)
        arguments = engine_arguments(model, self.settings, longest, rank)
        process = _Process(self.worker, self.threads)
        try:
            answer = process.ask(
                {"engine": arguments, "adapter": adapter}, self.settings.start_seconds, "the start", "rollout.vllm.start_seconds"
            )
            version = answer.get("version")
            if version is None:
                raise PolicyError(_WHO, "the engine does not start", found=answer.get("error", "no version"), remedy="see docs/sampling.md")
        except BaseException:
            process.end()
            raise
        if not str(version).startswith(f"{TESTED}."):
            sys.stderr.write(f"sampler vllm: version {shorten(version, 40)} was not tested with this adapter ({TESTED}.* was)\n")
        return process


def _described(sampling: Sampling) -> str:
    return f"temperature {sampling.temperature:g}, top_k {sampling.top_k}, top_p {sampling.top_p:g}"


def engine_arguments(model: Path, settings: Vllm, context_length: int, lora_rank: int) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`."""
    arguments: dict[str, Any] = {
        "model": str(model.resolve()),
        # Prompts come and completions go as ids: the engine needs no tokenizer.
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "generation_config": "vllm",
        "load_format": "safetensors",
        "dtype": settings.dtype,
        "seed": 0,
        "tensor_parallel_size": settings.tensor_parallel,
        "gpu_memory_utilization": settings.gpu_memory_share,
        "max_model_len": context_length,
        "max_num_seqs": settings.rows_at_once,
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        # A prompt read in parts takes a draw back, which a CPU's generator cannot do; and our prompts are short.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, context_length),
        "enforce_eager": settings.eager,
    }
    if lora_rank:
        if lora_rank > LORA_RANKS[-1]:
            raise ParameterError("policy.lora_rank", "too large for vllm", found=lora_rank, expected=f"at most {LORA_RANKS[-1]}")
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(rank for rank in LORA_RANKS if rank >= lora_rank)}
    return arguments


def request_seed(seed: int, row_id: str) -> int:
    """Return the seed of a rollout's own request: 31 bits of SHA-256 over (seed, row id)."""
    return int.from_bytes(hashlib.sha256(f"request|{seed}|{row_id}".encode("utf-8", "surrogatepass")).digest()[:4], "little") >> 1


class _Process(Program):
    """The engine's process: one answer to each line, within a time."""

    def __init__(self, worker: Path, threads: int) -> None:
        python = os.environ.get(PYTHON) or sys.executable
        environment = {
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            # One process is enough for one engine, and starts faster.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        } | os.environ
        try:
            # -P: the worker's folder holds modules whose names others use too.
            super().__init__([python, "-P", str(worker)], environment)
        except OSError as error:
            raise PolicyError(_WHO, f"the interpreter in {PYTHON} cannot be run", found=error.strerror, expected="a Python") from None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, content: dict[str, Any], timeout_seconds: float, what: str, parameter: str) -> dict[str, Any]:
        """Return the answer to one line; end the process where there is none in time, or an error."""
        began = time.monotonic()
        # In a thread: a worker that hangs may not read either.
        threading.Thread(target=self.send, args=(json.dumps(content) + "\n",), daemon=True).start()
        try:
            line = self._lines.get(timeout=timeout_seconds)
        except queue.Empty:
            self.end()
            raise PolicyError(
                _WHO,
                f"the engine hangs: no answer to {what} within {timeout_seconds:g} s, so it was ended",
                expected=f"an answer within {parameter}",
                remedy="raise it, or find what blocks the engine; the same command goes on behind the finished shards",
            ) from None
        try:
            answer = {} if line is None else json.loads(line)
        except ValueError:
            answer = {"error": f"a line that is no JSON: {shorten(line, 80)}"}
        if isinstance(answer, dict) and "absent" in answer:
            self.end()
            raise PolicyError(
                "rollout.sampler: vllm",
                "the package is not installed here",
                found=answer["absent"],
                remedy=f"{of_extra('vllm')}, or name the Python of an environment that has vllm in {PYTHON}",
            )
        if line is None or not isinstance(answer, dict) or "error" in answer:
            if line is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=5)
            status, said = self._process.returncode, shorten(self.last_line(), 200)
            self.end()
            found = f"exit status {status}" + (f", {said}" if said else "") if line is None else answer["error"]
            raise PolicyError(
                _WHO,
                f"the engine failed at {what}, after {time.monotonic() - began:.0f} s",
                found=found,
                remedy="the same command goes on behind the finished shards",
            )
        return answer

    def end(self) -> None:
        """Kill the process and what it started."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)
