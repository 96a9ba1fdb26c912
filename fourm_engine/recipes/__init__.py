"""Recipes: the implementation of whole commands, one file each. In: a `RunConfig`, or a run's folder. Out: files in it,
and a report.

    from fourm_engine.recipes.config import load_config
    from fourm_engine.recipes.fit import fit
    from fourm_engine.recipes.tokenize import tokenize
    from fourm_engine.recipes.train import train

    config = load_config("mine.yaml", ["train.steps=1000"])
    fit(config)
    tokenize(config)
    train(config)

A recipe locks its output folder, resumes when it is called again after an interruption, and raises ValueError or
OSError, one line, for problems that a user can fix. Under torchrun every process calls it. The command line only parses
arguments and prints.
"""
