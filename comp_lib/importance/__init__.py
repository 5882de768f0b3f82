"""Who goes: whole layers (`layers`), neurons and KV groups (`neurons`, on the ground of `condition`)."""
