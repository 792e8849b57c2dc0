"""GGUF files of a tiny Llama, by the example that the page of `ospo serve` names."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("to_gguf", Path(__file__).parents[2] / "docs" / "examples" / "to_gguf.py")
_EXAMPLE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_EXAMPLE)
write = _EXAMPLE.write
