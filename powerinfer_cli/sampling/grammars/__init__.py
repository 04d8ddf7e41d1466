"""What a text may be: GBNF and JSON schemas, and matching them token by token."""
