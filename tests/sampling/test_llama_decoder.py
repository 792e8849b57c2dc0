import pytest
import torch
import transformers

from ospo_cli.sampling import llama_decoder
from ospo_cli.sampling.causal_lm import HuggingFaceDecoder

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama with biases": lambda: transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama 3 positions": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3, wide heads": lambda: transformers.Qwen3Config(**SIZES, head_dim=32),
}
PROMPTS = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 7, 7, 7, 7, 8, 8], [1, 2, 3, 9]]
CPU = torch.device("cpu")


def built(config):
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.3, generator=generator)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers_through_splits_and_drops(name):
    model = built(CONFIGS[name]())
    ours, theirs = llama_decoder.LlamaDecoder(model), HuggingFaceDecoder(model)
    assert llama_decoder.fits(model)
    differences = []
    with torch.inference_mode():
        made = [decoder.prefill(PROMPTS, 0, CPU, 24, 6) for decoder in (ours, theirs)]
        differences.append(float((made[0] - made[1]).abs().max()))
        # Split prompt 0 in three, drop prompt 1; later drop row 0 and move the last into its place.
        for rows in ([0, 3, 2, 0, 0], None, [4, 1, 2, 3], *[None] * 20):
            count = len(made[0])
            if rows is not None:
                ours.select(torch.tensor(rows))
                theirs.select(torch.tensor(rows))
                count = len(rows)
            token = torch.arange(count) * 7 + 3
            made = [ours.step(token), theirs.step(token)]
            differences.append(float((made[0] - made[1]).abs().max()))
    assert max(differences) < 1e-4


@pytest.mark.parametrize(
    "config",
    [
        transformers.MistralConfig(**SIZES, sliding_window=4),
        transformers.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1),
        transformers.LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
    ],
)
def test_models_that_compute_something_else_are_left_to_transformers(config):
    assert not llama_decoder.fits(built(config))


@pytest.mark.parametrize("kind", ["attention.q_proj", "mlp.up_proj"])
def test_layers_that_an_adapter_wraps_are_left_to_transformers(kind):
    model = built(CONFIGS["llama"]())
    inside, name = ("self_attn" if kind.startswith("attention") else "mlp"), kind.split(".")[1]

    class Wrapped(torch.nn.Linear):
        pass

    setattr(getattr(model.model.layers[1], inside), name, Wrapped(64, 64 if name == "q_proj" else 96))
    assert not llama_decoder.fits(model)
