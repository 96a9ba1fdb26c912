"""Files that lie in a folder or in a remote store. In: a folder or a URL, and paths below it. Out: bytes, and local
copies of whole files in a cache that all processes of a machine share."""
