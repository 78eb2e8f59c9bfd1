"""The coordinator's command line: one module a command group.

Modules import what they need within their commands, so that `--help` is quick.
"""

from __future__ import annotations

from coordinator.bootstrap import serve
from qkdrelay.terminal import ActionCommand, StreamCommand, app_with
from qkdrelay_cli.commands import analyse, capacity, dead_letters, lab, network, plan, relay, relays, saes, site, watch
from qkdrelay_cli.commands.demo import demo
from qkdrelay_cli.commands.provision import certs, provision
from qkdrelay_page.bootstrap import serve_page

app = app_with("Relay keys through a QKD network, and watch how.")
app.command(cls=ActionCommand)(relay.relay)
app.command()(relays.relays)
app.command()(relays.show)
app.command()(relays.trace)
app.command(cls=StreamCommand)(watch.watch)
app.command()(plan.plan)
app.command()(analyse.analyse)
app.command()(capacity.capacity)
app.command()(network.network)
app.command()(network.supplies)
app.add_typer(network.link_app, name="link")
app.add_typer(saes.saes_app, name="saes")
app.add_typer(site.site_app, name="site")
app.add_typer(dead_letters.dead_letters_app, name="dead-letters")
app.add_typer(lab.lab_app, name="lab")
app.command(cls=ActionCommand)(provision)
app.command(cls=ActionCommand)(certs)
app.command()(serve)
app.command("page")(serve_page)
app.command(cls=ActionCommand)(demo)
