"""Two rewards of the same rollouts, side by side."""
