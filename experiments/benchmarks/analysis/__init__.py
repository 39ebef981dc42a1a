"""What is computed of a loss or a law, measured, with other libraries at the same task where they are installed."""
