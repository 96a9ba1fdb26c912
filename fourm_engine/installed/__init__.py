"""What is installed, told to a person or a program. In: the plugin host and a config. Out: each plugin in words, and
checks of all that a run needs."""
