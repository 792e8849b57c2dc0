"""Chunkers that hold a model: answer -> noun chunks. The rules that need none are in `ospo_cli.text.segments`."""
