"""A policy whose next-token logits are rows of a table, looked up by the last token: small games whose learning can be worked out."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from ospo_cli.maths.advantages import group_advantages
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import gradient_step
from ospo_cli.training.row_building import centred_penalties
from ospo_cli.training.rows import Rows, chosen
from ospo_cli.training.token_batches import Group

PROMPT = 0


class Table(torch.nn.Module):
    """Logits [tokens, tokens]: row by the last token."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.as_tensor(logits, dtype=torch.float32))
        self.config = SimpleNamespace(model_type="table")

    def forward(self, input_ids, **_):
        return SimpleNamespace(logits=self.logits[input_ids])


@dataclass(frozen=True)
class Game:
    """Answers of `length` tokens, each 1 to `choices`; the reward is a function of the answer."""

    choices: int
    length: int
    reward: object

    def start(self):
        """The uniform policy; the prompt's token is never sampled."""
        logits = np.zeros((self.choices + 1, self.choices + 1))
        logits[:, PROMPT] = -30.0
        return Table(logits)


def as_policy(table):
    """Wrap a table as update holds a policy."""
    return LoadedPolicy(Path("table"), table, SimpleNamespace(pad_token_id=0), None, 0, 1 << 30, "", torch.device("cpu"))


def sample(table, game, groups, group_size, generator):
    """Return [rows, length] answers and their log-probabilities."""
    last = np.full(groups * group_size, PROMPT)
    answers, logs = [], []
    probabilities = torch.softmax(table.logits.detach().double(), -1).numpy()
    for _ in range(game.length):
        cumulative = probabilities[last].cumsum(1)
        last = (generator.random(len(last))[:, None] * cumulative[:, -1:] > cumulative).sum(1)
        answers.append(last)
        logs.append(np.log(probabilities[answers[-2] if len(answers) > 1 else np.full(len(last), PROMPT), last]))
    return np.stack(answers, 1), np.stack(logs, 1)


def rollouts(table, game, attribute, groups, group_size, generator):
    """Return sampled rows with the advantages of rule uniform under the attribute section's baseline and normalisation."""
    answers, logs = sample(table, game, groups, group_size, generator)
    rewards = np.array([game.reward(answer) for answer in answers.tolist()], dtype=np.float64)
    owner = np.repeat(np.arange(groups), group_size)
    advantages = group_advantages(rewards, owner * (attribute.baseline == "group"), attribute.normalize).advantage
    made = [Group([PROMPT], answers[owner == index].tolist(), index * group_size) for index in range(groups)]
    lengths = np.full(len(answers), game.length)
    starts = np.arange(len(answers)) * game.length
    flat = np.repeat(advantages, game.length).astype(np.float32)
    return Rows(made, lengths, starts, logs.ravel().astype(np.float32), flat, None, 1.0, game.length), rewards


def learn(game, update, attribute, steps, rate, seed=0, groups=32, group_size=8):
    """Return the tables before each step of plain gradient descent on `update`'s loss, and the last one; [steps + 1, …].

    A penalty is to the policy that the game starts from, which is uniform over its choices.
    """
    table = game.start()
    policy, generator = as_policy(table), np.random.default_rng(seed)
    found = [table.logits.detach().double().numpy().copy()]
    for _ in range(steps):
        rows, _ = rollouts(table, game, attribute, groups, group_size, generator)
        rows = replace(rows, groups=chosen(rows, update, seed, 1))
        if update.kl_weight > 0:
            uniform = np.full_like(rows.behavior_logprobs, -np.log(game.choices))
            penalties = update.kl_weight * centred_penalties(rows, rows.groups, rows.behavior_logprobs, uniform, update.kl)[rows.owner]
            in_reward = {"advantages": rows.advantages - penalties.astype(np.float32)}
            rows = replace(rows, **(in_reward if update.kl_in == "reward" else {"reference_logprobs": uniform}))
        table.logits.grad = torch.zeros_like(table.logits)
        if rows.groups:
            gradient_step.accumulate(policy, rows, rows.groups, update)
        with torch.no_grad():
            table.logits -= rate * table.logits.grad
        found.append(table.logits.detach().double().numpy().copy())
    return np.stack(found)


def descend(rows, update, steps, rate):
    """Return the table of three choices after plain gradient descent on fixed rows, from the uniform policy that sampled."""
    table = Game(3, 1, None).start()
    for _ in range(steps):
        table.logits.grad = torch.zeros_like(table.logits)
        gradient_step.accumulate(as_policy(table), rows, rows.groups, update)
        with torch.no_grad():
            table.logits -= rate * table.logits.grad
    return table.logits.detach().double().numpy()
