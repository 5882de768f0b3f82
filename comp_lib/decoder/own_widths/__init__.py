"""Models whose layers differ in width: their config, their classes, and the file of Python they bring."""
