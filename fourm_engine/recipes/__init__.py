"""What a whole command does, a file each. In: the `RunConfig`, which no room below sees. Out: what the command leaves
in the folders that the config names."""
