"""Files in a folder or in a remote store: bytes of paths below a folder or URL, and local copies of whole files in a
cache that all processes of a machine share."""
