"""`ospo rewrite`: queries of a file or a stream, rewritten by a trained policy."""
