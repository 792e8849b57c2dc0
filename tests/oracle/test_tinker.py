"""The Datums of an exported file are what the Tinker API takes, and its published losses over them give the step of `update`."""

import dataclasses
import importlib.util
import json

import pytest
import torch

from ospo_cli.layout import Layout
from ospo_cli.policies.opening import load_policy
from tests.oracle import one_update
from tests.oracle.one_update import FIXTURE, ITERATION, MAX_NEW_TOKENS, SETUPS, flat

needs_tinker = pytest.mark.skipif(importlib.util.find_spec("tinker") is None, reason="tinker is not installed (extra [oracle])")
FACTORS = {
    "seq_mean": lambda row, rows: 1 / (len(rows) * sum(row["mask"])),
    "token_mean": lambda row, rows: 1 / sum(sum(other["mask"]) for other in rows),
    "constant": lambda row, rows: 1 / (len(rows) * MAX_NEW_TOKENS),
}
# https://tinker-docs.thinkingmachines.ai/tinker/losses: both are sums over tokens.
LOSSES = {
    "importance_sampling": lambda ratio, advantages: -(ratio * advantages).sum(),
    "ppo": lambda ratio, advantages: -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum(),
}


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path)
    one_update.write_policies(layout)
    one_update.write_rows(layout, json.loads(FIXTURE.read_text(encoding="utf-8"))["rows"])
    return layout


def read(layout, setup):
    lines = one_update.exported(layout, setup, "tinker").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


@pytest.mark.parametrize("name", ["mean over rows", "mean over tokens", "constant"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_published_loss_over_the_file_is_our_step(layout, name, loss):
    wide = {"clip_low": 0.999, "clip_high": 1e3} if loss == "importance_sampling" else {}
    setup = dataclasses.replace(SETUPS[name], **wide)
    policy = load_policy(layout.policy(ITERATION - 1), 1, trainable=True)
    datums = read(layout, setup)
    rows = [{key: tensor["data"] for key, tensor in datum["loss_fn_inputs"].items()} for datum in datums]
    total = torch.zeros(())
    for datum, row in zip(datums, rows, strict=True):
        (chunk,) = datum["model_input"]["chunks"]
        logits = policy.model(input_ids=torch.tensor([chunk["tokens"]])).logits[0].float()
        targets = torch.tensor(row["target_tokens"])
        logprobs = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
        ratio = torch.exp(logprobs - torch.tensor(row["logprobs"]))
        total = total + FACTORS[setup.aggregation](row, rows) * LOSSES[loss](ratio, torch.tensor(row["advantages"]))
    total.backward()
    gradient = flat({key: weight.grad for key, weight in policy.model.named_parameters()})
    ours = one_update.our_step(layout, setup)
    assert abs(float(total.detach()) - ours.loss) < 1e-5
    assert float((gradient - ours.gradient).abs().max()) < 1e-5 < float(gradient.abs().max())


@needs_tinker
def test_the_packages_own_types_take_every_datum_and_carry_it_on_the_wire(layout):
    import tinker
    from tinker.proto.request_conv import forward_backward_request_to_proto
    from tinker.types._pydantic_types.datum import Datum as Strict

    datums = []
    for record in read(layout, SETUPS["constant"]):
        Strict.model_validate(record)  # refuses fields that it does not know
        inputs = {key: tinker.TensorData(**tensor) for key, tensor in record["loss_fn_inputs"].items() if key != "mask"}
        tokens = record["model_input"]["chunks"][0]["tokens"]
        datum = tinker.Datum(model_input=tinker.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)
        assert datum.model_input.length == inputs["advantages"].to_numpy().shape[0]
        datums.append(datum)
    asked = tinker.types.ForwardBackwardInput(data=datums, loss_fn="importance_sampling")
    request = tinker.types.ForwardBackwardRequest(forward_backward_input=asked, model_id="m", seq_id=1)
    assert len(forward_backward_request_to_proto(request).SerializeToString()) > 1000
