"""What a folder declares about its tokens: refused where it cannot be meant, and one distribution in sampling and training."""

import re

import numpy as np
import pytest
import torch

from ospo_cli.errors import ParameterError, PolicyError
from ospo_cli.params.rollout import Vllm
from ospo_cli.policies import declarations
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy, read_policy
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request, checked_ids
from ospo_cli.sampling.vllm_engine import VllmSampler
from ospo_cli.training import token_batches
from ospo_cli.training.encoded_texts import EncodedTexts
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from tests.policies import shapes


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    return load_policy(shapes.write(tmp_path_factory.mktemp("padded") / "qwen", "qwen2.5"), 1)


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        ("generation_config.json", [258, 90], r"the end token of generation_config.json is no special token: found 90, which spells"),
        ("config.json", 300, r"the end token of config.json is no special token: found 300, which tokenizer.json does not have"),
        ("generation_config.json", [258, 9999], r"found 9999, which tokenizer.json does not have"),
        ("generation_config.json", [258, "<|im_end|>"], r"generation_config.json: eos_token_id is no token id"),
        ("config.json", [-1], r"config.json: eos_token_id is no token id"),
    ],
)
def test_an_end_token_that_cannot_be_meant_is_refused_with_its_file(tmp_path, file, value, message):
    folder = shapes.write(tmp_path / "qwen", "qwen2.5", lambda files: files[file].update(eos_token_id=value))
    with pytest.raises(PolicyError, match=message):
        read_policy(folder)


def test_a_tokenizer_with_more_text_than_the_model_has_entries_is_refused(padded):
    with pytest.raises(PolicyError, match=r"the tokenizer has tokens that the model has no entry for: found id 100"):
        declarations.read(padded.folder, padded.folder, padded.tokenizer, padded.pieces, 100, {"behind_answer": ""})


def drawn(policy, sampling, count=200, greedy_rows=0):
    prompt = render_prompt(policy, "coat")
    request = Request([prompt], [[str(index) for index in range(count)]], 6, sampling, 3, 64)
    return prompt, Sampler(policy).sample(request, greedy_rows)[0]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5), Sampling(1.5), Sampling(top_k=400), Sampling(top_p=0.99)])
def test_log_probabilities_are_those_of_the_spelled_ids_alone_in_sampling_and_training(padded, sampling):
    prompt, rows = drawn(padded, sampling)
    batch = token_batches.build([Group(prompt, [row.token_ids for row in rows])], padded.pad_token_id)
    known = len(padded.drawn_ids)
    with torch.no_grad():
        found, entropies = token_logprobs(padded.model, batch, sampling.temperature, True, unspelled=padded.unspelled)
        logits = padded.model(batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask).logits
    logits = logits[batch.predict_rows, batch.predict_positions, :known] / sampling.temperature
    expected = torch.log_softmax(logits, -1)
    sampled = np.concatenate([row.logprobs for row in rows])
    assert max(max(row.token_ids) for row in rows) < known
    assert torch.allclose(found, expected.gather(1, batch.targets[:, None])[:, 0], atol=1e-5)
    assert torch.allclose(entropies, -(expected.exp() * expected).sum(-1), atol=1e-4)
    assert np.abs(np.exp(found.numpy() - sampled) - 1).max() < 1e-4
    with torch.no_grad():
        whole, _ = token_logprobs(padded.model, batch, sampling.temperature)
    assert np.abs(whole.numpy() - sampled).max() > 0.1  # 51 of 310 entries are never drawn


def test_a_greedy_answer_holds_spelled_ids_alone(padded):
    policy = load_policy(padded.folder, 1)
    with torch.no_grad():
        policy.model.lm_head.weight[len(padded.drawn_ids) :] *= 50.0  # one of them is the likeliest nearly everywhere
    _, rows = drawn(policy, Sampling(), count=4, greedy_rows=4)
    assert max(token_id for row in rows for token_id in row.token_ids) < len(padded.drawn_ids)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_gradients_are_those_of_a_model_without_the_unspelled_entries(tmp_path, is_frozen):
    policy = load_policy(shapes.write(tmp_path / "qwen", "qwen2.5"), 1, trainable=True)
    head, known = policy.model.lm_head, len(policy.drawn_ids)
    head.weight.requires_grad_(not is_frozen)
    batch = token_batches.build([Group([5, 6, 7], [[8, 9, 10], [11, 12]])], 0)

    def gradient(*found):
        policy.model.zero_grad()
        sum((values * torch.linspace(-1, 1, len(values))).sum() for values in found).backward()
        return {name: weight.grad.clone() for name, weight in policy.model.named_parameters() if weight.grad is not None}

    ours = gradient(*token_logprobs(policy.model, batch, 0.7, True, True, policy.unspelled))
    hidden = policy.model.model(batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask).last_hidden_state
    logits = hidden[batch.predict_rows, batch.predict_positions] @ head.weight[:known].t() / 0.7
    logprobs = torch.log_softmax(logits, -1)
    theirs = gradient(logprobs.gather(1, batch.targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)


def test_holes_in_the_vocabulary_are_unspelled_too(padded):
    class Holed(TokenPieces):
        spelled_ids = frozenset(range(256)) - {7, 8} | {258}

    template = {"behind_answer": "<|im_end|>\n"}
    pieces = Holed(padded.pieces.tokenizer)
    made = declarations.read(padded.folder, padded.folder, padded.tokenizer, pieces, 262, template)
    assert made.unspelled == (7, 8, 256, 257, 259, 260, 261)
    assert made.card["vocabulary"]["never_drawn"] == [[7, 8], [256, 257], [259, 261]]


def answer(policy, ids, reason="stop"):
    return checked_ids(policy, "001:p:00", ids, 8, reason, "sampler")


def test_an_engines_completion_may_end_in_any_end_token_and_goes_on_behind_none(padded):
    first, second = padded.end_token_ids
    assert answer(padded, [70, first]) == [70, first]
    assert answer(padded, [70, second]) == [70, second]
    for ids, reason in (([70, second, 71, first], "stop"), ([70, first, second], "stop")):
        with pytest.raises(PolicyError, match="goes on behind its end token"):
            answer(padded, ids, reason)
    with pytest.raises(PolicyError, match="do not fit the finish reason"):
        answer(padded, [70] * 7 + [second], "length")
    with pytest.raises(PolicyError, match=f"token id outside the policy's vocabulary: found {len(padded.drawn_ids)}"):
        answer(padded, [70, len(padded.drawn_ids), first])


def test_vllm_is_given_every_end_token_and_the_ids_that_can_be_drawn(padded):
    asked = []

    class Answering(VllmSampler):
        def _ask(self, content, key, count, what):
            asked.append(content["settings"])
            return [[[70] * 3, [-1.0] * 3, "length"]] * count

    Answering(padded, Vllm(), 64).sample(Request([[3, 4]], [["a", "b"]], 3, Sampling(), 7, 64))
    assert asked[0]["stop_token_ids"] == padded.end_token_ids
    assert asked[0]["allowed_token_ids"] == list(range(len(padded.drawn_ids)))


def test_an_id_of_vllm_that_the_tokenizer_does_not_spell_is_refused_and_not_trained_on(padded):
    beyond = len(padded.drawn_ids)

    class Heedless(VllmSampler):  # an engine that does not keep to allowed_token_ids
        def _ask(self, content, key, count, what):
            return [[[70, beyond, 70], [-1.0] * 3, "length"]] * count

    with pytest.raises(PolicyError, match=f"token id outside the policy's vocabulary: found {beyond}"):
        Heedless(padded, Vllm(), 64).sample(Request([[3, 4]], [["a"]], 3, Sampling(), 7, 64))


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(top_k=5)])
def test_vllm_is_refused_where_it_would_score_over_ids_that_are_never_drawn(padded, sampling):
    with pytest.raises(ParameterError, match=r"51 ids that are never drawn; temperature .*rollout.sampler: transformers"):
        VllmSampler.check(sampling, padded)
    VllmSampler.check(Sampling(), padded)


def test_a_completion_that_spells_an_end_token_is_taught_as_text(padded):
    texts = EncodedTexts(padded, {"p": "coat"})
    _, ids = texts.ids("p", "red <|im_end|> coat", "example 0")
    assert [token_id in padded.end_token_ids for token_id in ids] == [False] * (len(ids) - 1) + [True]
    assert padded.pieces.text(ids) == "red <|im_end|> coat"


def test_end_tokens_are_known_without_transformers_from_files_and_card(padded, tmp_path):
    folder = shapes.write(tmp_path / "phi", "phi3.5")
    policy = read_policy(folder)
    assert declarations.recorded_end_ids(folder, policy.pieces) == set(policy.end_token_ids)
    assert re.fullmatch("<.*end.*>", policy.pieces.tokenizer.id_to_token(policy.end_token_id))


def test_a_special_token_in_a_file_of_ones_own_is_refused_with_its_row(padded):
    texts = EncodedTexts(padded, {"p": "coat"}, refuses_control=True)
    texts.ids("p", "red <answer>coat</answer>", "mine.parquet: row 1")
    with pytest.raises(PolicyError, match=r"mine\.parquet: row 2: the completion spells a special token of the policy: found <\|im_end\|>"):
        texts.ids("p", "red coat<|im_end|>", "mine.parquet: row 2")


def test_a_server_is_given_every_end_token(padded):
    from ospo_cli.params.rollout import Server
    from ospo_cli.sampling.completions_server import ServerSampler

    asked = ServerSampler(padded, Server(url="http://127.0.0.1:9/v1", model="m"))._request([3, 4], 8, 1)
    assert asked["stop_token_ids"] == padded.end_token_ids


def test_the_warm_start_learns_the_likelihood_among_spelled_ids(padded, tmp_path):
    from ospo_cli.params.warm_start import WarmStart
    from ospo_cli.training import supervised
    from ospo_cli.training.training_state import Checkpoint, Run, Training

    policy = load_policy(padded.folder, 1, trainable=True)
    prompt, ids = EncodedTexts(policy, {"p": "coat"}).ids("p", "red coat", "pair 0")
    batch = token_batches.build([Group(prompt, [ids])], policy.pad_token_id)
    expected, _ = token_logprobs(policy.model, batch, 1.0, unspelled=policy.unspelled)
    settings = WarmStart(steps=1, batch_size=1)
    training = Training(policy.model, 0.0, 1.0)
    curves, _ = supervised.train(policy, [(prompt, ids)], training, Checkpoint(tmp_path / "c"), settings, Run(0, 0))
    assert curves["loss"][0] == pytest.approx(-float(expected.mean()), abs=1e-6)
