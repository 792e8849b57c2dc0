"""ospo: Owen-Shapley Policy Optimization for search queries, as staged, cacheable batch jobs."""

import os

# libgomp reads this once, before torch or faiss load: spinning barriers make small models erratic on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# No stage may reach for a model hub or report anything unless a command asks for it.
# What a person asked for; without it the commands that fetch models are online, and they alone.
OFFLINE_ASKED = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

__version__ = "0.1.0"
