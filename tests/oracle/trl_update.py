"""The same step by TRL's GRPOTrainer from the exported file. Run `make test-oracle`, or in an environment with the extra [oracle]:

python -m tests.oracle.trl_update     # writes trl_update.json, which the default tests compare with
"""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ospo_cli.layout import Layout
from tests.oracle import one_update
from tests.oracle.one_update import FIXTURE, ITERATION, LEARNING_RATE, MAX_NEW_TOKENS, SETUPS, Setup, Step, flat


def trl_step(file: Path, policy: Path, reference: Path, setup: Setup, scratch: Path) -> Step:
    """Return loss, gradient and weights of one step that TRL takes from an exported file."""
    header, inputs = read(file)
    trainer = _trainer(policy, header, len(inputs["advantages"]), setup, scratch, None)
    trainer.current_gradient_accumulation_steps = 1
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    if setup.sampler_correction != "none":
        inputs |= _corrected(policy, inputs, header["temperature"], setup)
        trainer.use_vllm = True
    if setup.kl_weight:
        inputs["ref_per_token_logps"] = _plain_logprobs(reference, inputs, header["temperature"])
    model = trainer.model.eval()
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    gradient = flat({name: weight.grad for name, weight in model.named_parameters()})
    optimizer = trainer.create_optimizer()
    torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
    optimizer.step()
    return Step(float(loss.detach()), gradient, flat(dict(model.named_parameters())))


def trl_training(file: Path, policy: Path, setup: Setup, scratch: Path) -> torch.Tensor:
    """Return the weights after TRL's own training loop has taken one step from an exported file."""
    header, inputs = read(file)
    trainer = _trainer(policy, header, len(inputs["advantages"]), setup, scratch, inputs)
    trainer.train()
    return flat(dict(trainer.model.named_parameters()))


def read(file: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Return header and tensors of an exported file."""
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["ospo"])
        inputs = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert (header["format"], header["version"]) == ("ospo-credit", 1)
    return header, inputs


def _trainer(policy: Path, header: dict, rows: int, setup: Setup, scratch: Path, given: dict | None) -> Any:
    """Return TRL's trainer over a policy; its loop takes the given tensors in place of what it would sample."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    class FromFile(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: object) -> dict:
            return dict(given or {})

    config = GRPOConfig(
        output_dir=str(scratch),
        loss_type=setup.loss_type,
        beta=setup.kl_weight,
        use_bias_correction_kl=setup.kl_in == "weighted-loss",  # on by default
        delta=setup.dual_clip or None,
        importance_sampling_level=setup.ratio,
        entropy_coef=setup.entropy_bonus,
        epsilon=setup.clip_low,
        epsilon_high=setup.clip_high,
        temperature=header["temperature"],
        max_completion_length=header["max_new_tokens"],
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=setup.params.update.max_gradient_norm,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        num_generations=3,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    return FromFile(
        model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(policy),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "coat"}] * rows),
    )


def gaps(ours: Step, theirs: Step) -> tuple[float, float, float]:
    """Return the largest differences of loss, gradient and weights."""
    gradient, weights = (float((a - b).abs().max()) for a, b in ((ours.gradient, theirs.gradient), (ours.weights, theirs.weights)))
    return abs(ours.loss - theirs.loss), gradient, weights


def _plain_logprobs(folder: Path, inputs: dict, temperature: float) -> torch.Tensor:
    """Return [rows, tokens] log-probabilities, one row at a time without padding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = torch.zeros(inputs["completion_ids"].shape)
    for row in range(len(found)):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()]
        completion = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()]
        with torch.no_grad():
            logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        found[row, : len(completion)] = torch.log_softmax(logits / temperature, -1)[torch.arange(len(completion)), completion]
    return found


def _corrected(policy: Path, inputs: dict, temperature: float, setup: Setup) -> dict[str, torch.Tensor]:
    """Return what TRL makes of a sampler's log-probabilities in `_generate_and_score_completions`: it has no function for it."""
    old = _plain_logprobs(policy, inputs, temperature)
    difference = (old - inputs["old_per_token_logps"]) * inputs["completion_mask"]
    if setup.sampler_correction.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True)
    ratio = torch.exp(difference)
    bound = one_update.SAMPLER_BOUND
    is_truncated = setup.sampler_correction.endswith("truncate")
    weights = ratio.clamp(max=bound) if is_truncated else ratio.masked_fill(ratio > bound, 0.0)
    return {"old_per_token_logps": old, "importance_sampling_ratio": weights}


def main() -> None:
    """Draw the rollouts, take every step with TRL, write the fixture, print how far our own steps are from it."""
    import trl

    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder) / "project")
        one_update.write_policies(layout)
        rows = one_update.draw_rows(layout)
        one_update.write_rows(layout, rows)
        steps = {}
        for name, setup in SETUPS.items():
            with contextlib.redirect_stdout(None):
                theirs = trl_step(one_update.exported(layout, setup), layout.policy(1), layout.policy(0), setup, Path(folder) / "trl")
            ours = one_update.our_step(layout, setup)
            off = ", ".join(f"{gap:.1e}" for gap in gaps(ours, theirs))
            print(f"{name}: loss {ours.loss:+.6f}, largest gradient {float(ours.gradient.abs().max()):.3f}; off by {off}")
            steps[name] = theirs.sample()
        before = flat(load_file(layout.policy(ITERATION - 1) / "model.safetensors"))
        content = {
            "made_with": {"trl": trl.__version__, "torch": torch.__version__},
            "max_new_tokens": MAX_NEW_TOKENS,
            "weights_before": one_update.rounded(before[:: one_update.STRIDE]),
            "rows": rows,
            "steps": steps,
        }
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        FIXTURE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
