"""The command `coordinator`: the service, and the command line that talks to it."""

from __future__ import annotations

from qkdrelay.terminal import run_app
from qkdrelay_cli import app


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
