"""One step of DPO over five pairs by this project, and by TRL's DPOTrainer. In an environment with the extra [oracle]:

python -m tests.oracle.trl_preferences     # writes trl_preferences.json, which the default tests compare with
"""

import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path

import polars as pl
import torch
from safetensors.torch import load_file

from ospo_cli.layout import Layout
from ospo_cli.policies.opening import load_policy
from ospo_cli.stages import update
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import PREFERENCE_PAIRS
from ospo_cli.training import forward, gradient_step
from ospo_cli.training.objectives import objective_of
from ospo_cli.training.row_building import to_rows
from tests.oracle import one_update
from tests.oracle.one_update import ITERATION, LEARNING_RATE, MAX_NEW_TOKENS, Step, flat
from tests.policies.tiny import tiny_params

FIXTURE = Path(__file__).with_name("trl_preferences.json")
BETAS = (0.1, 0.7)
# (prompt, chosen, rejected): samples of one_update's rows.
PAIRS = ((0, 1, 0), (0, 1, 2), (1, 0, 2), (2, 2, 1), (2, 0, 1))


def params_of(beta: float):
    """Return parameters of one step over all pairs, with policy 000 as the reference."""
    values = {
        "objective": "dpo", "dpo_beta": beta, "dpo_reference": "warm-start", "learning_rate": LEARNING_RATE, "groups_per_step": 100,
        "max_logprob_mismatch": 100.0,
    }  # fmt: skip
    return tiny_params(rollout={"max_new_tokens": MAX_NEW_TOKENS}, update=values)


def write_pairs(layout: Layout) -> None:
    """Write the table of pairs beside one_update's rollouts."""
    rows = [(f"002:p{prompt}:0{chosen}", f"002:p{prompt}:0{rejected}", f"p{prompt}", 1.0) for prompt, chosen, rejected in PAIRS]
    table = pl.DataFrame(rows, schema=PREFERENCE_PAIRS.schema, orient="row")
    parquet.write(table, layout.iteration(ITERATION, "preference_pairs.parquet"), PREFERENCE_PAIRS)


def our_step(layout: Layout, beta: float) -> Step:
    """Return loss and gradient as `update` computes them, and the weights that it writes."""
    params = params_of(beta)
    policy, reference = load_policy(layout.policy(1), 1, trainable=True), load_policy(layout.policy(0), 1)
    objective = objective_of(params.update)
    learned = update.read(layout, objective, ITERATION)
    pairs = objective.pairs(learned.rollouts, learned.table)
    rows = to_rows(learned.rollouts, learned.advantages, params.rollout, ITERATION, pairs)
    rows = dataclasses.replace(rows, reference_logprobs=forward.logprobs_of(reference, rows, 10_000))
    measures = gradient_step.accumulate(policy, rows, rows.groups, params.update)
    gradient = flat({name: weight.grad for name, weight in policy.model.named_parameters()})
    update.execute(layout, params, ITERATION)
    return Step(measures["loss"], gradient, flat(load_file(layout.policy(ITERATION) / "model.safetensors")))


def trl_step(rows: list[dict], policy: Path, reference: Path, beta: float, scratch: Path) -> Step:
    """Return loss, gradient and weights of one step that TRL takes over the same pairs."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    def load(folder: Path):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    config = DPOConfig(
        output_dir=str(scratch), beta=beta, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", max_grad_norm=1.0,
        per_device_train_batch_size=len(PAIRS), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, save_strategy="no",
        logging_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=load(policy), ref_model=load(reference), args=config, processing_class=AutoTokenizer.from_pretrained(policy),
        train_dataset=Dataset.from_list([{"prompt": "coat", "chosen": " navy", "rejected": " red"}] * len(PAIRS)),
    )  # fmt: skip
    found = {(row["prompt_id"], row["sample_index"]): row for row in rows}
    ordered = [found[f"p{prompt}", sample] for place in (1, 2) for prompt, sample in ((pair[0], pair[place]) for pair in PAIRS)]
    width = max(len(row["prompt_token_ids"]) + len(row["token_ids"]) for row in ordered)
    inputs = {name: torch.zeros((len(ordered), width), dtype=torch.long) for name in ("input_ids", "attention_mask", "completion_mask")}
    for index, row in enumerate(ordered):
        start, end = len(row["prompt_token_ids"]), len(row["prompt_token_ids"]) + len(row["token_ids"])
        inputs["input_ids"][index, :end] = torch.tensor([*row["prompt_token_ids"], *row["token_ids"]])
        inputs["attention_mask"][index, :end] = 1
        inputs["completion_mask"][index, start:end] = 1
    model = trainer.model.eval()
    loss = trainer._compute_loss(model, inputs, False)
    loss.backward()
    gradient = flat({name: weight.grad for name, weight in model.named_parameters()})
    optimizer = trainer.create_optimizer()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return Step(float(loss.detach()), gradient, flat(dict(model.named_parameters())))


def main() -> None:
    """Take every step with TRL, write the fixture, print how far our own steps are from it."""
    import trl

    from tests.oracle.trl_update import gaps

    rows = json.loads(one_update.FIXTURE.read_text(encoding="utf-8"))["rows"]
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder) / "project")
        one_update.write_policies(layout)
        one_update.write_rows(layout, rows)
        write_pairs(layout)
        steps = {}
        for beta in BETAS:
            with contextlib.redirect_stdout(None):
                theirs = trl_step(rows, layout.policy(1), layout.policy(0), beta, Path(folder) / "trl")
            ours = our_step(layout, beta)
            print(f"beta {beta}: loss {ours.loss:+.6f}; off by {', '.join(f'{gap:.1e}' for gap in gaps(ours, theirs))}")
            steps[str(beta)] = theirs.sample()
    content = {"made_with": {"trl": trl.__version__, "torch": torch.__version__}, "steps": steps}
    FIXTURE.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in content.items()) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
