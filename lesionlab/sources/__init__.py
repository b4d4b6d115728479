"""Where lesions come from: each source gives one table and, where it has voxels, crops."""
