"""Words and postings: the lexical engine, and other packages behind the same protocol to compare with."""
