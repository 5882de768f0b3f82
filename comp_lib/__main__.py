"""`python -m comp_lib` is the same program as `comp-lib`."""

from comp_lib.cli.app import app

if __name__ == "__main__":
    app()
