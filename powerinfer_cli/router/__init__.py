"""Several models behind one port: a process each, loaded when it is asked for, the least recently used one out."""
