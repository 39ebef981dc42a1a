"""The loss that SGD sees through the noise of a step."""
