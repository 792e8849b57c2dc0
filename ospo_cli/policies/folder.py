"""Policy folders: a causal language model in the Hugging Face layout (safetensors and tokenizer.json), or a LoRA adapter over one."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ospo_cli.errors import PolicyError, first_line
from ospo_cli.policies import chat_template, small_tokenizer
from ospo_cli.policies.declarations import CARD as CARD
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.tables import model_folder
from ospo_cli.tables.files import file_hash as file_hash
from ospo_cli.tables.files import read_json

OPTIMIZER = "optimizer.safetensors"
WEIGHTS = "model.safetensors"


@dataclass
class LoadedPolicy:
    """A policy in memory: model on its device in float32 (None: weights lie elsewhere), tokenizer, and what sampling needs to know.

    Attributes:
        end_token_id: the one that answers are taught to end with.
        further_end_ids: others that end an answer too.
        vocabulary_size: ids that the model has logits for.
        unspelled: [ids] int64 on the model's device, of its vocabulary but not the tokenizer's: never drawn; None where there are none.
        declared: what the folder says of these, for its card.
    """

    folder: Path
    model: Any
    tokenizer: Any
    pieces: TokenPieces
    end_token_id: int
    context_length: int
    content_hash: str
    device: torch.device
    adapter_card: dict[str, Any] | None = None
    further_end_ids: tuple[int, ...] = ()
    vocabulary_size: int = 0
    unspelled: torch.Tensor | None = None
    declared: dict[str, Any] = field(default_factory=dict)

    @property
    def end_token_ids(self) -> list[int]:
        """All ids that end an answer, the taught one first."""
        return [self.end_token_id, *self.further_end_ids]

    @property
    def drawn_ids(self) -> list[int]:
        """All ids that can be drawn, ascending: those of the model that the tokenizer spells."""
        return sorted(token_id for token_id in self.pieces.spelled_ids if token_id < self.vocabulary_size)

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are an adapter's over a base, which its card names."""
        return self.adapter_card is not None

    @property
    def pad_token_id(self) -> int:
        """Id that fills unused places; always masked."""
        pad = self.tokenizer.pad_token_id
        return self.end_token_id if pad is None else int(pad)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files from one policy folder to another."""
    for path in sorted(source.iterdir()):
        if path.name in _TOKENIZER_FILES and source != target:
            shutil.copyfile(path, target / path.name)


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def copy_weights(source: Path, target: Path) -> None:
    """Copy a policy folder of full weights, without an optimiser's moments."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != OPTIMIZER and path.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model"):
            shutil.copyfile(path, target / path.name)


def check_folder(folder: Path, made_by: str = "") -> None:
    """Raise PolicyError unless the folder holds a tokenizer, a configuration and safetensors weights, and no remote code."""
    remedy = f"run `{made_by}`" if made_by else "make or fetch the policy again"
    if not folder.is_dir():
        raise PolicyError(folder, "no such policy folder", remedy=remedy)
    names = sorted(path.name for path in folder.iterdir())
    if "tokenizer.json" not in names:
        raise PolicyError(
            folder, "policy folder without tokenizer", found=", ".join(names) or "nothing", expected="tokenizer.json", remedy=remedy
        )
    if "config.json" not in names and "adapter_config.json" not in names:
        raise PolicyError(
            folder,
            "policy folder without configuration",
            found=", ".join(names),
            expected="config.json or adapter_config.json",
            remedy=remedy,
        )
    weights = [name for name in names if name.endswith(".safetensors") and name != OPTIMIZER]
    model_folder.check(folder, names, weights, PolicyError, "policy", remedy)
    _check_weights(folder, weights)


def _check_weights(folder: Path, names: list[str]) -> None:
    """Raise PolicyError where a file of weights is none, or an index names others; only the headers are read."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = read_json(index).get("weight_map")
        named = set(listed.values() if isinstance(listed, dict) else [])
        absent = sorted(str(name) for name in named if name not in names)
        if absent or not named:
            raise PolicyError(
                index, "names weights that are not in its folder", found=", ".join(absent) or "none", expected=", ".join(names)
            )
        if WEIGHTS in names and WEIGHTS not in named:
            raise PolicyError(
                folder, "holds two sets of weights", found=f"{WEIGHTS}, and the shards of {index.name}", expected="one",
                remedy="take the older one away",
            )  # fmt: skip
    for name in names:
        try:
            with safe_open(folder / name, framework="np") as weights:
                whole = [key for key in weights.keys() if key.endswith(".weight") and weights.get_slice(key).get_dtype()[0] in "IU"]  # noqa: SIM118
        except Exception as error:  # of its own kind
            raise PolicyError(
                folder / name, "is no file of weights", found=first_line(error), expected="safetensors", remedy="fetch the whole file again"
            ) from None
        if whole:
            raise PolicyError(
                folder / name, "holds weights in whole numbers: quantised, and not to be read without their scales",
                found=whole[0], expected="floating point", remedy="fetch the model that was quantised, or convert it back",
            )  # fmt: skip


def load_model(folder: Path, **options: Any) -> Any:
    """Return the folder's causal language model in float32, in evaluation mode; `options` are further ones of `from_pretrained`."""
    from transformers import AutoModelForCausalLM

    hide_progress_bars()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
            **options,
        )
    except Exception as error:  # transformers raises many kinds for a broken folder
        raise PolicyError(
            folder, "the model cannot be loaded", found=first_line(error), remedy="restore the folder or make it again"
        ) from None
    for problem in ("mismatched_keys", "missing_keys", "unexpected_keys"):
        if loading.get(problem):
            raise PolicyError(
                folder,
                f"weights do not fit the configuration ({problem.replace('_', ' ')})",
                found=", ".join(sorted(map(str, loading[problem]))),
            )
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_own = head is not None and head.weight is not embedding.weight and not torch.equal(head.weight, embedding.weight)
    if is_own and model.config.get_text_config().tie_word_embeddings:
        raise PolicyError(
            folder,
            "has an output embedding of its own, and config.json says that there is none",
            found="tie_word_embeddings: true",
            remedy="set tie_word_embeddings to what the model was trained with",
        )
    return model.eval()


def hide_progress_bars() -> None:
    """Keep transformers' own bars and reports off the terminal: what is wrong is one line of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer; it must carry a chat template."""
    own = small_tokenizer.read(folder)
    if own is not None:
        return own
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
    except Exception as error:
        raise PolicyError(
            folder, "the tokenizer cannot be loaded", found=first_line(error), remedy="restore the folder or make it again"
        ) from None
    if not tokenizer.chat_template:
        raise PolicyError(
            folder, "the tokenizer has no chat template", expected="chat_template.jinja or chat_template in tokenizer_config.json"
        )
    return tokenizer


def render_prompt(policy: LoadedPolicy, user_message: str) -> list[int]:
    """Return the token ids of the chat template with the user's message, up to where the policy's answer starts.

    Special tokens that the message spells out (a product text may hold `<|im_end|>`) are broken by a space, so that text stays text.
    """
    tokenizer = policy.tokenizer
    return chat_template.token_ids(tokenizer, chat_template.as_text(tokenizer, user_message))


def content_hash(folder: Path) -> str:
    """Return the SHA-256 of what decides the policy's answers: weights, configuration, tokenizer; not metrics or moments."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        decides = path.suffix in (".safetensors", ".jinja", ".txt", ".model") or path.name in _DECIDING
        if path.is_file() and decides and path.name != OPTIMIZER:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


_DECIDING = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", CARD)
