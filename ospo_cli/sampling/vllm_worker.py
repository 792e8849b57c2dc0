"""The process that holds a vLLM engine: JSON lines in, JSON lines out; imports nothing of this package, so that any environment runs it.

First line in: {"engine": arguments of vllm.LLM, "adapter": folder or null}; out: {"version": …}. Then
{"sample": [[prompt ids, seed], …], "settings": {…}} → {"rows": [[ids, log-probabilities, finish reason], …]} and
{"score": [[prompt ids, completion ids], …]} → {"logprobs": [[…], …]}, of the raw policy (temperature 1, no token cut off).
An error is {"error": text} or {"absent": text}, and the end of the process. Standard input's end ends it too, whatever it does just then.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any


def main() -> None:
    """Answer until standard input ends."""
    # What the engine prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # whoever asked is gone: an engine that hangs must not stay behind

    threading.Thread(target=listen, daemon=True).start()

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        engine = _Engine(json.loads(lines.get()))
        answer({"version": engine.version})
        while True:
            answer(engine.answer(json.loads(lines.get())))
    except ModuleNotFoundError as error:
        answer({"absent" if error.name == "vllm" else "error": str(error)})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        answers.flush()


class _Engine:
    def __init__(self, asked: dict[str, Any]) -> None:
        import vllm

        self.version = str(vllm.__version__)
        self.llm = vllm.LLM(**asked["engine"])
        self.adapter = None
        if asked["adapter"]:
            from vllm.lora.request import LoRARequest

            self.adapter = LoRARequest("policy", 1, asked["adapter"])

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        from vllm import SamplingParams

        if "sample" in asked:
            settings = [SamplingParams(**asked["settings"], seed=seed) for _, seed in asked["sample"]]
            made = self._generate([ids for ids, _ in asked["sample"]], settings)
            return {"rows": [_row(request.outputs) for request in made]}
        pairs = asked["score"]
        # One token must be sampled; what is read is of the tokens before it.
        settings = [SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False) for _ in pairs]
        made = self._generate([prompt + completion for prompt, completion in pairs], settings)
        return {
            "logprobs": [
                [_logprob(place, token) for place, token in zip(request.prompt_logprobs[len(prompt) :], completion, strict=True)]
                for request, (prompt, completion) in zip(made, pairs, strict=True)
            ]
        }

    def _generate(self, prompts: list[list[int]], settings: list[Any]) -> list[Any]:
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        return list(self.llm.generate(asked, settings, use_tqdm=False, lora_request=self.adapter))


def _row(outputs: list[Any]) -> list[Any]:
    if len(outputs) != 1:
        raise ValueError(f"{len(outputs)} completions of one request")
    ids, logprobs = [int(token) for token in outputs[0].token_ids], outputs[0].logprobs
    found = None if logprobs is None else [_logprob(place, token) for place, token in zip(logprobs, ids, strict=True)]
    return [ids, found, outputs[0].finish_reason]


def _logprob(place: Any, token: int) -> float | None:
    found = None if place is None else place.get(token)
    return None if found is None else float(found.logprob)


if __name__ == "__main__":
    main()
