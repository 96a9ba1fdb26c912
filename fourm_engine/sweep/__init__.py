"""Many trials from one file: sweeps over config keys, and suites of encoders and tasks.

In: a sweep or suite file. Out: a folder with a run for each trial, what came of them as a table, JSON and pictures, and
the best config. What is done is known by the folder alone, so that a sweep may be stopped, shared and enlarged.
"""
