"""One file a paper: how its samples are prepared, its model, its loss and its recipe."""
