"""Pictures that can be moved, in JupyterLab and in the published page, by the same JavaScript."""
