"""The fused adapter layer against peft's own forward and backward pass."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ospo_cli.policies import fused_adapter


class Net(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 9, bias=bias), torch.nn.Linear(9, 5, bias=bias)

    def forward(self, inputs):
        return self.second(torch.tanh(self.first(inputs)))


def pair(bias=False, **settings):
    """Return two equal peft models in float64 with adapters that are not zero; the second is fused."""
    torch.manual_seed(0)
    config = {"r": 3, "lora_alpha": 7.0, "target_modules": ["first", "second"], "bias": "none"} | settings
    ours = get_peft_model(Net(bias), LoraConfig(**config)).double()
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if "lora" in name:
                weight.normal_(std=0.5)
    theirs = copy.deepcopy(ours)
    fused_adapter.fuse(ours)
    return theirs, ours


def outputs_and_gradients(model, inputs):
    inputs = inputs.clone().requires_grad_()
    found = model(inputs)
    (found**3).sum().backward()
    return [found, inputs.grad, *[weight.grad for weight in model.parameters() if weight.requires_grad]]


def steps(model, inputs):
    """Return the names of the graph's operations."""
    names, waiting = [], [model(inputs).grad_fn]
    while waiting:
        node = waiting.pop()
        names.append(type(node).__name__)
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    return names


@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients_are_those_of_peft(bias):
    theirs, ours = pair(bias)
    inputs = torch.randn(4, 7, 6, dtype=torch.float64)
    assert "_AdaptedBackward" in steps(ours, inputs)
    assert "_AdaptedBackward" not in steps(theirs, inputs)
    for expected, found in zip(outputs_and_gradients(theirs, inputs), outputs_and_gradients(ours, inputs), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    _, ours = pair()
    layer = ours.base_model.model.first
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    inputs = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def of(inputs, down, up):
        return fused_adapter._Adapted.apply(inputs, layer.get_base_layer().weight, None, down, up, 2.5)

    assert torch.autograd.gradcheck(of, (inputs, down, up))


@pytest.mark.parametrize("case", ["dropout", "switched off", "autocast", "dora", "trained base", "adapter's bias", "merged"])
def test_what_is_not_the_plain_function_is_left_to_peft(case):
    extra = {"dropout": {"lora_dropout": 0.5}, "dora": {"use_dora": True}, "adapter's bias": {"lora_bias": True}}
    theirs, ours = pair(**extra.get(case, {}))
    inputs = torch.randn(4, 6, dtype=torch.float64)
    for model in (theirs, ours):
        model.train(case == "dropout")
        if case == "switched off":
            model.base_model.disable_adapter_layers()
        if case == "merged":
            model.merge_adapter()
    if case == "trained base":
        theirs, ours = pair()
        for model in (theirs, ours):
            model.requires_grad_(True)
        ours = copy.deepcopy(theirs)
        fused_adapter.fuse(ours)
    if case == "autocast":
        theirs, ours, inputs = theirs.float(), ours.float(), inputs.float()
    found = []
    for model in (theirs, ours):
        torch.manual_seed(1)  # of the dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            assert "_AdaptedBackward" not in steps(model, inputs.clone().requires_grad_())
            torch.manual_seed(1)
            found.append(model(inputs))
    assert torch.equal(*found)


def test_dropout_that_is_off_is_fused():
    theirs, ours = pair(lora_dropout=0.5)
    inputs = torch.randn(4, 6, dtype=torch.float64)
    assert "_AdaptedBackward" in steps(ours.eval(), inputs)
    assert torch.allclose(ours(inputs), theirs.eval()(inputs), rtol=1e-12)
