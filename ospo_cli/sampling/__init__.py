"""From prompts to completions: decoders, engines and servers that draw tokens and keep their log-probabilities.

A new sampler is a `CompletionSampler` in a file of its own and a line in SAMPLERS.
"""

SAMPLERS: dict[str, str] = {
    "transformers": "ospo_cli.sampling.causal_lm:Sampler",
    "vllm": "ospo_cli.sampling.vllm_engine:VllmSampler",
    "openai": "ospo_cli.sampling.completions_server:ServerSampler",
}
