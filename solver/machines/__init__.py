"""Several machines: how a model's layers are divided among them, and what that leads one to expect."""
