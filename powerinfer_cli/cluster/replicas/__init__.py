"""Several engines behind one port, by Ray Serve: a door reads requests, and hands each to the replica that suits it."""
