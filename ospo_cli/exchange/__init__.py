"""What other trainers read and write: credit out of this project, rollouts into it."""
