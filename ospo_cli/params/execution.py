"""Section execution."""

from __future__ import annotations

from dataclasses import dataclass

from ospo_cli.params.declare import Registered, parameter


@dataclass(frozen=True)
class Execution:
    """Where shards run (docs/scale.md); changes no result, so that no stage runs again for it."""

    engine: str = parameter(
        "local",
        "where shards run: local (this process), processes (of this machine) or ray (a cluster); OSPO_ENGINE and --engine go first",
        choices=Registered("executors", "ENGINES"),
    )
    workers: int = parameter(2, "workers of the other engines; OSPO_WORKERS and --workers go first", minimum=1, maximum=100_000)
    gpus_per_worker: int = parameter(0, "GPUs that each worker sees, and no other worker; 0: each sees all", minimum=0, maximum=64)
    address: str = parameter(
        "", "of a Ray cluster, as host:port; empty: RAY_ADDRESS, or one that is started on this machine for the command"
    )
    shard_seconds: float = parameter(
        3600.0,
        "longest time of a shard or of a worker's start; then it is ended and another has the shard; 0: no limit",
        minimum=0,
    )
    attempts: int = parameter(3, "workers that a shard is given to, one after another, if they die or hang", minimum=1, maximum=100)
