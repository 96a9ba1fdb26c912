"""Raw data. In: folders of files, tar shards, commands that print them. Out: values and arrays of samples by name, with
each file that cannot be used named."""
