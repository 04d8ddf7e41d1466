"""HTTP: schemas, routes, the one thread that owns the engine, the scheduler of its slots, the web page."""
