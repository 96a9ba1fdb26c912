"""Recipes: what whole commands do, one file each. In: a `RunConfig`, or a run's folder. Out: files there, and a report.

    from fourm_engine.recipes.config import load_config
    from fourm_engine.recipes.fit import fit
    from fourm_engine.recipes.tokenize import tokenize
    from fourm_engine.recipes.train import train

    config = load_config("mine.yaml", ["train.steps=1000"])
    fit(config)
    tokenize(config)
    train(config)

A recipe locks the folder that it writes to, continues when it is called again after a stop, and raises ValueError or
OSError, one line, for what a user can fix. Under torchrun every process calls it. The command line only parses and
prints.
"""
