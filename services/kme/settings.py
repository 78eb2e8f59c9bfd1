"""A KME's settings, from the environment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from kme.etsi014.identity import IdFrom
from qkdrelay.broker.names import by_site
from qkdrelay.network.devices import AHEAD_BYTES_DEFAULT, AHEAD_BYTES_MAX, AHEAD_BYTES_MIN, DEVICE_RULES
from qkdrelay.network.key_cost import DEFAULT_SUITE, Suite
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology import (
    BUFFER_BYTES_MAX,
    BUFFER_BYTES_MIN,
    RATE_BPS_DEFAULT,
    RATE_BPS_MAX,
    RATE_BPS_MIN,
    SourceKind,
)
from qkdrelay.service.settings import (
    PREFIX,
    HexKey,
    HttpAddress,
    JsonObject,
    JsonOfSites,
    KmeName,
    OrNothing,
    ServiceSettings,
    SiteSettings,
    kind_tag,
)


def _ruled(entry: str) -> AfterValidator:
    """Return the check of what a topology file calls ``entry`` of a device."""
    rule = DEVICE_RULES[entry]

    def checked(value: str) -> str:
        if not rule.fits(value):
            raise ValueError(f"must be {rule.words}")
        return value

    return AfterValidator(checked)


class _LinkSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    suite: Suite = DEFAULT_SUITE
    """The same at both ends."""


class SimulatedLinkSettings(_LinkSettings):
    """A QKD link of this KME whose two ends expand one secret; both must be told the same."""

    source: Literal["simulated"] = "simulated"
    secret: HexKey
    rate_bps: Annotated[int, Field(ge=RATE_BPS_MIN, le=RATE_BPS_MAX)] = RATE_BPS_DEFAULT
    """Key that appears per second and direction, in bit/s."""
    buffer_bytes: Annotated[int, Field(ge=BUFFER_BYTES_MIN, le=BUFFER_BYTES_MAX)] = 4 << 20
    """Key kept for each direction; full at start."""


class DeviceLinkSettings(_LinkSettings):
    """A QKD link of this KME that has its key from a device here, over ETSI GS QKD 014; the peer asks the one there."""

    source: Literal["etsi014"]
    url: Annotated[str, _ruled("url")]
    """https://HOST[:PORT][/PATH], up to what stands before /api/v1/keys."""
    peer_sae: Annotated[str, _ruled("sae")]
    """The id by which the device knows the KME at the other end."""
    tls: Path
    """Directory with ``ca.pem``, the device's authority, and ``cert.pem`` and ``key.pem``, which it knows us by."""
    server_name: Annotated[str, _ruled("server_name")] | None = None
    """The name in the device's certificate, where it is not that of the host."""
    rate_bps: Annotated[int, Field(ge=RATE_BPS_MIN, le=RATE_BPS_MAX)] = RATE_BPS_DEFAULT
    """Key that is expected per second and direction, in bit/s; what is measured counts instead, once it is known."""
    serialise: bool = False
    """Whether the two ends draw in turns: there are devices that cannot draw at both at once. The same at both ends."""
    keeps_uncollected: bool = False
    """Whether the device keeps what was drawn and not fetched when more is drawn, in either direction.

    Then more is drawn at once, and while the other end fetches; but not in turns, which must end in time.
    """
    ahead_bytes: Annotated[int, Field(ge=AHEAD_BYTES_MIN, le=AHEAD_BYTES_MAX)] = AHEAD_BYTES_DEFAULT
    """Key drawn ahead and kept to send with; no share that needs more can leave."""


def _kind_of(link: Any) -> str | None:
    """Return which kind of settings a link's are to be read as; None for a source that there is not."""
    source = link.get("source", "simulated") if isinstance(link, dict) else getattr(link, "source", "simulated")
    return kind_tag("source", source) if source in get_args(SourceKind) else None


LinkSettings = Annotated[
    Annotated[SimulatedLinkSettings, Tag(kind_tag("source", "simulated"))]
    | Annotated[DeviceLinkSettings, Tag(kind_tag("source", "etsi014"))],
    Discriminator(_kind_of, "source", f"source must be one of {', '.join(get_args(SourceKind))}"),
]
"""One QKD link of this KME, told apart by ``source``; simulated if that is not said."""


AllLinks = Annotated[dict[KmeName, LinkSettings], *JsonObject, Field(min_length=1, max_length=255)]


class LinksSettings(BaseSettings):
    """The settings that trying a link's device takes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True, frozen=True)

    links: AllLinks


class StoreSettings(BaseSettings):
    """The settings that reading a KME's store takes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True, frozen=True)

    kme: KmeName
    store: Path


def _who(site: SiteSettings) -> Sequence[str]:
    """Return who is at a site, as far as a KME has to do with it."""
    return (*site.kmes, COORDINATOR) if site.coordinator else site.kmes


class KmeSettings(ServiceSettings):
    """The settings of a KME: its own secrets and nobody else's."""

    kme: KmeName
    links: AllLinks
    control_key: HexKey
    sites: Annotated[dict[KmeName, SiteSettings], *JsonOfSites] = Field(default_factory=dict)
    """The other sites that its neighbours and the coordinator are at; who is in none of them is at its own."""
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
    def _sites_are_others(self) -> KmeSettings:
        if self.sites and (not self.site or self.site_tls is None):
            raise ValueError("QKDRELAY_SITES needs QKDRELAY_SITE and QKDRELAY_SITE_TLS")
        if self.site in self.sites:
            raise ValueError(f"QKDRELAY_SITES has {self.site}, the site this is at; it must have the others")
        for name, site in self.sites.items():
            if not _who(site):
                raise ValueError(f"QKDRELAY_SITES has {name}, and nobody there")
            for kme in site.kmes:
                if kme not in self.links:
                    raise ValueError(f"QKDRELAY_SITES has {kme}, and QKDRELAY_LINKS has no link with it")
                if site.kmes.count(kme) > 1:
                    raise ValueError(f"QKDRELAY_SITES has {kme} twice at {name}")
        there = Counter(who for site in self.sites.values() for who in _who(site))
        for who, times in there.items():
            if times > 1:
                raise ValueError(f"QKDRELAY_SITES has {who} at {times} sites")
        return self

    def reads(self) -> dict[str, tuple[str, ...]]:
        """Return the queues to read, by the site they are at; ``""`` is its own."""
        return by_site(self.kme, self.links, {who: name for name, site in self.sites.items() for who in _who(site)})

    @model_validator(mode="after")
    def _no_link_to_itself(self) -> KmeSettings:
        if self.kme in self.links:
            raise ValueError(f"QKDRELAY_LINKS has a link from {self.kme} to itself")
        return self
