"""From tables of one iteration to flat arrays of credit: its rows, its coalitions, their shares, its tokens."""
