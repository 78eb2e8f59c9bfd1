"""A KME's settings, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from kme.etsi014.identity import IdFrom
from qkdrelay.network.key_cost import DEFAULT_SUITE, Suite
from qkdrelay.network.topology import BUFFER_BYTES_MAX, BUFFER_BYTES_MIN, RATE_BPS_MAX, RATE_BPS_MIN
from qkdrelay.service.settings import PREFIX, HexKey, HttpAddress, JsonObject, KmeName, OrNothing, ServiceSettings


class LinkSettings(BaseModel):
    """One QKD link of this KME; both ends must be told the same."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    secret: HexKey
    suite: Suite = DEFAULT_SUITE
    rate_bps: Annotated[int, Field(ge=RATE_BPS_MIN, le=RATE_BPS_MAX)] = 1_000_000
    """Key that appears per second and direction, in bit/s."""
    buffer_bytes: Annotated[int, Field(ge=BUFFER_BYTES_MIN, le=BUFFER_BYTES_MAX)] = 4 << 20
    """Key kept for each direction; full at start."""


class StoreSettings(BaseSettings):
    """The settings that reading a KME's store takes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True, frozen=True)

    kme: KmeName
    store: Path


class KmeSettings(ServiceSettings):
    """The settings of a KME: its own secrets and nobody else's."""

    kme: KmeName
    links: Annotated[dict[KmeName, LinkSettings], *JsonObject, Field(min_length=1, max_length=255)]
    control_key: HexKey
    withstand_compromised: Annotated[int, Field(ge=0, le=3)] = 1
    """As source or target, refuse plans from which this many compromised KMEs could learn a secret."""

    saes: Annotated[Path | None, *OrNothing] = None
    """File with the directory of SAEs; without it there are no keys for applications here."""
    etsi014: HttpAddress | None = None
    """Address of the interface for applications; not served unless set."""
    etsi014_tls: Annotated[Path | None, *OrNothing] = None
    """Directory with its certificate, and the authority of the SAEs' certificates."""
    sae_id_from: IdFrom = "cn"
    """Where in its certificate an SAE's id stands."""
    wait_s: Annotated[float, Field(ge=0, le=30)] = 5.0
    """Seconds that a request waits for keys at most."""
    usable_s: Annotated[float, Field(ge=60, le=30 * 86_400)] = 7 * 86_400.0
    """Seconds that keys can be handed out after they were assigned."""
    fetch_again_s: Annotated[float, Field(ge=0, le=300)] = 0.0
    """Seconds for which the certificate that has fetched keys may fetch them again: an answer may get lost."""
    requests_per_s: Annotated[float, Field(ge=1, le=1e6)] = 2_000.0
    """Requests of one SAE."""

    @model_validator(mode="after")
    def _interface_is_whole(self) -> KmeSettings:
        if self.etsi014 is not None and (self.saes is None or self.etsi014_tls is None):
            raise ValueError("QKDRELAY_ETSI014 needs QKDRELAY_SAES and QKDRELAY_ETSI014_TLS")
        return self

    @model_validator(mode="after")
    def _no_link_to_itself(self) -> KmeSettings:
        if self.kme in self.links:
            raise ValueError(f"QKDRELAY_LINKS has a link from {self.kme} to itself")
        return self
