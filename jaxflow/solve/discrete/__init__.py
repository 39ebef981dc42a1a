"""Steps of an optimizer: what is asked, the loop, where gradients come from, what is seen on the way."""
