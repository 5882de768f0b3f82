"""Heavy statistics behind notebooks and widgets, each computed once and kept in the cache (see `cache`)."""
