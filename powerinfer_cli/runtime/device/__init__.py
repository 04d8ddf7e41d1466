"""The device executor: layers, hot neurons and cache on one GPU."""
