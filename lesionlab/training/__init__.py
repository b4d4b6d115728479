"""The one training loop of all five papers: recipes, checkpoints, cross-validation.

A paper's file says what is learned (`paper.Experiment`) and how (`recipes.Recipe`); `loop.fit`
trains it, `folds.cross_validate` scores it beside its baselines.
"""
