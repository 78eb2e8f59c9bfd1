"""The coordinator's command line: one module a command group."""

from __future__ import annotations

from coordinator.cli import serve
from qkdrelay.terminal import app_with

app = app_with("Relay keys through a QKD network, and watch how.")
app.command()(serve.serve)
