"""From a query to what the search engine is given: a policy's greedy answer, read by the one rule, and a decision."""
