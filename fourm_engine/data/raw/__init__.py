"""Raw data. In: folders of files, tar shards, or commands that print them. Out: values and arrays of samples by name,
and a report of each unusable file."""
