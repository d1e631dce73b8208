"""Error rates, their confidence intervals, the results table and its pictures."""
