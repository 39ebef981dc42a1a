"""Running trials: cut into batches, each in one compiled program, by one process or several, until Ctrl-C."""
