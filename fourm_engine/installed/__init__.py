"""What is installed. In: the plugin host and a config. Out: each plugin in words, and checks of all that a run
needs."""
