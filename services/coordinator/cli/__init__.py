"""The coordinator's command line: one module a command group.

Modules import what they need within their commands, so that `--help` is quick.
"""

from __future__ import annotations

from coordinator.cli import analyse, demo, lab, letters, network, plan, provision, relay, relays, serve, watch
from qkdrelay.terminal import Action, Stream, app_with

app = app_with("Relay keys through a QKD network, and watch how.")
app.command(cls=Action)(relay.relay)
app.command()(relays.relays)
app.command()(relays.show)
app.command()(relays.trace)
app.command(cls=Stream)(watch.watch)
app.command()(plan.plan)
app.command()(analyse.analyse)
app.command()(network.network)
app.add_typer(network.link_app, name="link")
app.add_typer(letters.app, name="dead-letters")
app.add_typer(lab.app, name="lab")
app.command(cls=Action)(provision.provision)
app.command(cls=Action)(provision.certs)
app.command()(serve.serve)
app.command(cls=Action)(demo.demo)
