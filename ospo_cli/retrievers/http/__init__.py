"""Somebody else's search server as a retriever."""
