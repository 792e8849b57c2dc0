"""From prompts to completions: decoders, engines and servers that draw tokens and keep their log-probabilities."""
