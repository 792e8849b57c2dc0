"""The judged reward: (prompt, text) to a number, what is remembered of it, and the oracle that is measured by it."""
