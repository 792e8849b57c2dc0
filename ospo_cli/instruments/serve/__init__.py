"""`ospo serve`: a trained policy behind HTTP; whatever goes wrong, the raw query is answered."""
