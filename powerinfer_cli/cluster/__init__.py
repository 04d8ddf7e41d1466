"""Several machines: a model's layers in ranges, one a rank, joined by TCP connections that know who they speak to."""
