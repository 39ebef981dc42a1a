"""Models that are fitted to examples: linear and logistic regression, small networks, and a user's own."""
