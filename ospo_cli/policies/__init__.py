"""Weights on disk: policy folders, adapters, 4 bits, pretrained packages, tokenizers."""
