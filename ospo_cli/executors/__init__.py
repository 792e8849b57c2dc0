"""Where shards run. An engine is a name here; `execution.engine` chooses. No stage is stale for a change of these (graph/code.py)."""

ENGINES = {
    "local": "ospo_cli.executors.engines:Local",
    "processes": "ospo_cli.executors.processes:processes",
    "ray": "ospo_cli.executors.ray_actors:actors",
}
# What a process is that computes shards for another, by the variable that says so.
HELPERS = {
    "OSPO_WORKER": "ospo_cli.executors.worker:Worker",
    "OSPO_SHARDS": "ospo_cli.executors.tasks:Task",
}
