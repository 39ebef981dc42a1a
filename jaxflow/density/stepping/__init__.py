"""Moving a density by its chain: exactly, by uniformization, or by implicit steps where the chain is stiff."""
