"""Encoder folders in the Hugging Face layout with random weights, made here; no download."""

import json

from tests.retrievers.catalogues import random_titles

WORDS = [*sorted({word for title in random_titles(1, 60) for word in title.split()}), "red", "wool", "coat", "query", "passage", ":"]


def write(folder, kind="bert", pooling="mean", seed=0, positions=64):
    """Write a model of 16 dimensions and two layers, its tokenizer and a statement of its pooling ("" for none)."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, Qwen2Config, Qwen2Model, RobertaConfig, RobertaModel

    torch.manual_seed(seed)
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(vocabulary)}
    if kind == "bert":
        model = BertModel(BertConfig(**shared, max_position_embeddings=positions))
    elif kind == "roberta":
        model = RobertaModel(RobertaConfig(**shared, max_position_embeddings=positions + 2, pad_token_id=0))
    else:
        model = Qwen2Model(Qwen2Config(**shared, num_key_value_heads=2, max_position_embeddings=positions))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.eval().save_pretrained(folder, safe_serialization=True)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.enable_padding(length=20)  # a folder may say so; it must not matter
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling")])
    )
    for name in [pooling] if pooling else []:
        flag = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}[name]
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({flag: True, "pooling_mode_max_tokens": False}))
    return folder


def one_at_a_time(folder, texts, pooling, normalize=True, max_length=64):
    """Return vectors by transformers' own forward pass, a text at a time, without padding."""
    import numpy as np
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    vectors = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        states = found.last_hidden_state[0]
        possible = {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1], "pooler": getattr(found, "pooler_output", states)[0]}
        pooled = possible[pooling]
        vectors.append((pooled / pooled.norm() if normalize else pooled).double().numpy())
    return np.array(vectors)
