"""Tables: a module per stage or instrument that makes them; `declare`: what a table is, `parquet` reads and writes, `reference` lists."""
