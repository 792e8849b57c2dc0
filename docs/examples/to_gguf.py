"""A policy folder as a GGUF file for llama.cpp, also with a tokenizer that was trained here, which llama.cpp's own converter refuses.

    pip install gguf safetensors numpy
    python docs/examples/to_gguf.py rewriter rewriter.gguf       # rewriter: a folder of `ospo merge`

Llama's architecture alone, with a byte-level tokenizer cut as GPT-2's or SmolLM2's is; float32. Needs no ospo.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


_DIGITS = {"type": "Digits", "individual_digits": True}
_SPECIAL, _OWN, _NORMAL = 3, 4, 1  # token types: never written as text, found in text before it is cut, all others


def pre_tokenizer(tokenizer):
    """Return llama.cpp's name of how the tokenizer cuts a text; end with a line where it is none of the two that are known here."""
    found = tokenizer["pre_tokenizer"] or {}
    parts = found.get("pretokenizers", [found])
    bytewise = parts[-1].get("type") == "ByteLevel" and parts[-1].get("use_regex", True) and not parts[-1].get("add_prefix_space")
    if bytewise and tokenizer["model"]["type"] == "BPE" and not tokenizer.get("normalizer"):
        if len(parts) == 1:
            return "gpt-2"
        if parts[:-1] == [_DIGITS]:
            return "smollm"
    sys.exit("to_gguf: the tokenizer is neither cut as GPT-2's nor as SmolLM2's; try convert_hf_to_gguf.py of llama.cpp")


def write(folder, path, architecture="llama"):
    """Write the policy of a folder as a GGUF file in float32."""
    import gguf

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if config["model_type"] != "llama":
        sys.exit(f"to_gguf: {folder}: found model_type {config['model_type']}, expected llama")
    weights = load_file(folder / "model.safetensors")
    heads, kept = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kept)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float((config.get("rope_parameters") or config)["rope_theta"]))
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    added = {token["content"]: _SPECIAL if token["special"] else _OWN for token in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types([added.get(token, _NORMAL) for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_chat_template(_template(folder))
    end = config["eos_token_id"]
    writer.add_eos_token_id(end if isinstance(end, int) else end[0])
    for name, values in weights.items():
        writer.add_tensor(*_placed(name, np.asarray(values, dtype=np.float32), heads, kept))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _template(folder):
    own = folder / "chat_template.jinja"
    return own.read_text(encoding="utf-8") if own.is_file() else json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]


def _placed(name, values, heads, kept):
    plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in plain:
        return plain[name], values
    _, _, layer, *path, part = name.split(".")
    inner = _NAMES[".".join(path)]
    if inner in ("attn_q", "attn_k"):
        count = heads if inner == "attn_q" else kept
        # llama.cpp turns pairs of neighbours, transformers halves.
        values = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return f"blk.{layer}.{inner}.{part}", values


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), Path(sys.argv[2]))
