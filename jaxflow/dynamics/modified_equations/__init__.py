"""The differential equation that the iterates of any optimizer follow, to the order asked."""
