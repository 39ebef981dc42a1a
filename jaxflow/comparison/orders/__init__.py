"""The order at which a continuous model closes in on the iterates as the step size falls."""
