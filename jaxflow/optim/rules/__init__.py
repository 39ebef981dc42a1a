"""Rules: what to change in an optimizer with the step size (families) and with the batch size."""
