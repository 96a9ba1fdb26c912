"""What is installed, told to a person or a program: each plugin in words, and checks of everything that a run needs."""
