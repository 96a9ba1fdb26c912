"""What is installed: describes each plugin in words, and checks everything that a run needs."""
