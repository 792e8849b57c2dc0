"""Methods compared over tasks and seeds: run what is missing, keep what it left, tables with intervals over seeds and prompts."""
