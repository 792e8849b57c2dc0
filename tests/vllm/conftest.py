"""Policies that vLLM's CPU kernels take (32 entries per head), in a project; skipped, with the reason, where there is no vLLM."""

import dataclasses
import importlib.util
import os

import pytest

from ospo_cli.params.rollout import Vllm
from ospo_cli.policies.lora import write_fresh_adapter
from ospo_cli.policies.opening import load_policy, read_policy
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.sampling.vllm_engine import PYTHON, VllmSampler
from ospo_cli.tables.files import replacing_folder
from tests.policies.tiny import TEXTS, tiny_params, write_prepared

ABSENT = importlib.util.find_spec("vllm") is None and not os.environ.get(PYTHON)
SIZES = {"hidden_size": 64, "heads": 2, "intermediate_size": 128}
LORA = {"lora_rank": 4, "lora_alpha": 16.0}
ENGINE = Vllm(eager=True, rows_at_once=64, start_seconds=500.0, timeout_seconds=300.0)
LONGEST = 128


def pytest_collection_modifyitems(items):
    for item in items:
        if ABSENT and "tests/vllm" in str(item.path):
            item.add_marker(
                pytest.mark.skip(reason=f"vllm is not installed here, and {PYTHON} names no Python that has it (make test-vllm)")
            )


def rescaled(folder, name, change):
    """Change the weights of a folder's file: change(name, weight) -> weight."""
    from safetensors.torch import load_file, save_file

    path = folder / name
    weights = {key: change(key, weight).contiguous() for key, weight in load_file(path).items()}
    path.unlink()
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def layout(tmp_path_factory):
    """A project with policy 000, whose distributions are far from uniform, and an adapter over it."""
    import torch

    layout = write_prepared(tmp_path_factory.mktemp("vllm"))
    settings = dataclasses.replace(tiny_params().policy, **SIZES)
    layout.policy(0).mkdir(parents=True)
    write_small_llama(TEXTS, settings, 0, layout.policy(0))
    rescaled(layout.policy(0), "model.safetensors", lambda _, weight: weight * 4 if weight.ndim > 1 else weight)
    adapter = layout.root / "adapter"
    with replacing_folder(adapter) as folder:
        write_fresh_adapter(folder, layout.policy(0), layout.root, dataclasses.replace(settings, **LORA), 0)
    noise = torch.Generator().manual_seed(1)
    rescaled(adapter, "adapter_model.safetensors", lambda _, weight: torch.randn(weight.shape, generator=noise) * 0.15)
    return layout


@pytest.fixture(scope="session")
def engines(layout):
    """Sampler of each policy by name; they end with the session."""
    made = {name: VllmSampler(read_policy(folder), ENGINE, LONGEST, 2) for name, folder in folders(layout).items()}
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture(scope="session")
def trained(layout):
    """The same policies as the update loads them."""
    return {name: load_policy(folder, 1) for name, folder in folders(layout).items()}


def folders(layout):
    return {"full": layout.policy(0), "adapter": layout.root / "adapter"}
