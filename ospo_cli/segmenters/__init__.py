"""Who cuts an answer: the rules of `ospo_cli.text.segments`, a chunker that holds a model, or a user's function."""
