"""The command line. Commands that belong together share a file, and `app` has all of them."""
