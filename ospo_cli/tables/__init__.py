"""What tables hold, and the only reader and writer of Parquet."""
