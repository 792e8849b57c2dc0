"""A prompt and a completion that is given as text, as the token ids that a policy is trained on."""

from __future__ import annotations

from collections.abc import Mapping

from ospo_cli.errors import PolicyError
from ospo_cli.policies.chat_template import control_tokens
from ospo_cli.policies.folder import LoadedPolicy, render_prompt


class EncodedTexts:
    """Encodes completions behind prompts; each prompt is rendered once.

    Args:
        policy: whose tokenizer and chat template are used; its weights are not.
        messages: prompt id -> the user's message.
        refuses_control: a completion that spells a special token is an error, since who wrote it by hand meant the token; else it is
            text, as in a product's title.
    """

    def __init__(self, policy: LoadedPolicy, messages: Mapping[str, str], *, refuses_control: bool = False) -> None:
        self.policy, self.messages = policy, messages
        self.control = control_tokens(policy.tokenizer) if refuses_control else {}
        self.rendered: dict[str, list[int]] = {}

    def ids(self, prompt_id: str, completion: str, where: str) -> tuple[list[int], list[int]]:
        """Return the token ids of prompt and completion, end token included.

        Raises:
            PolicyError: they do not fit the context, or the completion spells a special token and may not.
        """
        policy = self.policy
        spelled = [name for name in self.control if name in completion]
        if spelled:
            raise PolicyError(
                where,
                "the completion spells a special token of the policy",
                found=spelled[0],
                expected="text alone",
                remedy="leave it out: the end token is added",
            )
        if prompt_id not in self.rendered:
            self.rendered[prompt_id] = render_prompt(policy, self.messages[prompt_id])
        prompt = self.rendered[prompt_id]
        # Text stays text: a special token that a completion spells would end it, or start another message.
        ids = [*policy.tokenizer.encode(completion, add_special_tokens=False, split_special_tokens=True), policy.end_token_id]
        if len(prompt) + len(ids) > policy.context_length:
            raise PolicyError(
                where,
                "does not fit the policy's context",
                found=f"{len(prompt)} + {len(ids)} tokens",
                expected=f"at most {policy.context_length}",
            )
        return prompt, ids
