"""Where the parts of a model go: the GPUs that there are, wishes by hand, plans and their files."""
