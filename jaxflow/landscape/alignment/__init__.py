"""Networks that are one up to the order of their hidden units, brought into one order."""
