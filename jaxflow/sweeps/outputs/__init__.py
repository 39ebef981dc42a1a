"""What trials return: arrays with names, the dataset that is made of them, and the best cell in it."""
