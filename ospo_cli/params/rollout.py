"""Section rollout, and the settings of each sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.errors import ParameterError
from ospo_cli.params.declare import Registered, group, parameter


@dataclass(frozen=True)
class Vllm:
    """Sampler vllm: an engine that runs as long as the command."""

    dtype: Literal["float32", "bfloat16", "float16"] = parameter(
        "float32", "number format of weights and sums; in 16 bits log-probabilities differ from the update's (update.sampler_correction)"
    )
    tensor_parallel: int = parameter(1, "GPUs that share the policy", minimum=1, maximum=64)
    gpu_memory_share: float = parameter(0.9, "part of a GPU's memory that the engine takes", minimum=0.01, maximum=1)
    rows_at_once: int = parameter(256, "most completions under way at once", minimum=1, maximum=65_536)
    eager: bool = parameter(False, "true: do not compile the layers; false: compile them first, which takes a minute and pays on a GPU")
    start_seconds: float = parameter(900.0, "longest wait for the engine's start", minimum=0.01, maximum=86_400)
    timeout_seconds: float = parameter(1800.0, "longest wait for a batch (rollout.batch_size completions)", minimum=0.01, maximum=86_400)


@dataclass(frozen=True)
class Server:
    """Sampler openai: a server that speaks OpenAI's completions, such as `vllm serve`, and holds the policy that is sampled."""

    url: str = parameter("", "address of the server with the version, such as http://localhost:8000/v1; no credentials, no query string")
    model: str = parameter("", "the server's name of the policy")
    authorization: str = parameter("", "environment variable that holds the value of header Authorization; empty: none is sent")
    concurrency: int = parameter(32, "requests (a completion each) under way at once", minimum=1, maximum=1024)
    requests_per_second: float = parameter(0.0, "most requests begun per second; 0 is no limit", minimum=0)
    timeout_seconds: float = parameter(120.0, "longest wait for an answer", minimum=0.01, maximum=86_400)
    retries: int = parameter(5, "further attempts after a time-out, a cut connection, broken JSON, 408, 429 or 5xx", minimum=0, maximum=100)
    backoff_seconds: float = parameter(
        0.5, "wait before the first further attempt, doubled each time; at least the server's Retry-After", minimum=0
    )


@dataclass(frozen=True)
class Rollout:
    """Sampling of completions."""

    prompts_per_iteration: int = parameter(384, "prompts drawn from train for each iteration", minimum=1)
    group_size: int = parameter(8, "completions per prompt, G", minimum=1)
    temperature: float = parameter(1.0, "softmax temperature", minimum=0.01)
    top_k: int = parameter(0, "draw from this many likeliest tokens; 0 is all", minimum=0)
    top_p: float = parameter(1.0, "draw from the likeliest tokens that together hold this probability; 1 is all", minimum=0, maximum=1)
    max_new_tokens: int = parameter(48, "cap of the completion's length in tokens, end token included", minimum=1)
    batch_size: int = parameter(256, "completions sampled at once; changes no result (sampler transformers, on a CPU)", minimum=1)
    prompts: Literal["all", "headroom"] = parameter(
        "all", "all, or headroom (prompts whose raw query scores at most headroom_max; a change of reward then samples again)"
    )
    headroom_max: float = parameter(
        0.95, "largest score of a prompt's raw query (prompts: headroom)", minimum=0, maximum=1, when="prompts: headroom"
    )
    further_rounds: int = parameter(
        0,
        "dynamic sampling: most rounds that replace rollout groups of equal rewards by further prompts, until prompts_per_iteration "
        "groups have unequal ones; 0 is off; above 0 a change of reward samples again",
        minimum=0,
    )
    sampler: str = parameter(
        "transformers",
        "sampler of the rollouts: transformers (this process), vllm (an engine; extra [vllm]) or openai (a server); docs/sampling.md",
        choices=Registered("sampling", "SAMPLERS"),
    )
    vllm: Vllm = group(Vllm, when="sampler: vllm")
    server: Server = group(Server, when="sampler: openai")

    def check(self, where: str) -> None:
        """Raise ParameterError where parameters of this section contradict each other; `where` names the section."""
        for name in ("url", "model") if self.sampler == "openai" else ():
            if not getattr(self.server, name):
                raise ParameterError(f"{where}.server.{name}", "is empty", expected="the server's, for sampler openai")
