"""Values that are never computed twice: a folder of books, one per reward, outside the stages' outputs."""
