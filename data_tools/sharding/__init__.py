"""The sharding job: turns text into token tars and a manifest; the same text gives equal bytes."""
