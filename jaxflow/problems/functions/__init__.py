"""Functions whose minima, and often whose gradient flows, are known: bowls, wells, ripples and curved surfaces."""
