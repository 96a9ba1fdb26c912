"""Files in a folder or in a remote store: reads by path, and local copies of whole files in a cache that all processes
of a machine share."""
