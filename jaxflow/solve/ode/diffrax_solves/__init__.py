"""What is solved by diffrax, which is imported here: its solvers and ours written for it, controllers, events."""
