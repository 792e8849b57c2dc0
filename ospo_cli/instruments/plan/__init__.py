"""How long a run will take, before anything runs."""
