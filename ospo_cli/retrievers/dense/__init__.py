"""Texts as vectors: encoders, their kept vectors, exact and approximate search."""
