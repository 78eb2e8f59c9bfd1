"""Settings of the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from qkdrelay.service.settings import HexKey, JsonObject, JsonOfSites, KmeName, OrNothing, ServiceSettings


class CoordinatorSettings(ServiceSettings):
    """The settings of `coordinator serve`; never a link secret."""

    topology: Path
    control_keys: Annotated[dict[KmeName, HexKey], *JsonObject]
    cli_key: HexKey
    """Shared with the command line: requests and answers are signed with it."""
    page_key: Annotated[HexKey | None, *OrNothing] = None
    """Shared with the page; without it there is none."""
    site_keys: Annotated[dict[KmeName, HexKey], *JsonOfSites] = Field(default_factory=dict)
    """Keys shared with the command lines at other sites."""
    standby: bool = False
    """Whether there are several coordinators, of which one leads while the others wait."""
    saes: Annotated[Path | None, *OrNothing] = None
    """File with the directory of SAEs, for the weights of their pairs."""
