"""The command that turns the results of any command into one page to send to a colleague."""
