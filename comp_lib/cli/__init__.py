"""The command line, `comp-lib` or `python -m comp_lib`: commands that belong together share a file; `app` has all."""
