"""The sharding job: text in, token tars and a manifest out, the same bytes every time."""
