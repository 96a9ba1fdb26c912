"""Many trials from one file: sweeps over config keys, and suites of encoders and tasks.

In: a sweep or suite file. Out: a folder with a run for each trial, a table, JSON and pictures of the results, and the
best config. All state is in the folder, so a sweep can be interrupted, shared between processes and extended.
"""
