"""`python -m timeviper` is the command `timeviper`."""

from timeviper.cli.main import app

if __name__ == "__main__":
    app()
