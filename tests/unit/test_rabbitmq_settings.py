"""How a service is told where its broker is."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkdrelay.broker.rabbitmq import RabbitMqSettings
from qkdrelay.errors import SettingsError
from qkdrelay_deployment.certificates import Authority


def settings(addresses: str, prefetch: int = 100) -> RabbitMqSettings:
    return RabbitMqSettings(addresses=addresses, user="kme-1", password="secret", prefetch=prefetch)


def test_several_addresses_are_kept_in_order_and_the_port_may_be_left_out() -> None:
    hosts = settings("rabbit-1:5673, rabbit-2,[::1]:5674,[::2]").hosts
    assert hosts == (("rabbit-1", 5673), ("rabbit-2", 5672), ("::1", 5674), ("::2", 5672))


@pytest.mark.parametrize("addresses", ["", ",", "rabbit:", "rabbit:amqp", "rabbit:0", "rabbit:65536", ":5672"])
def test_what_is_no_address_is_refused(addresses: str) -> None:
    with pytest.raises(SettingsError):
        settings(addresses)


@pytest.mark.parametrize("prefetch", [0, 65536])
def test_a_prefetch_without_bound_is_refused(prefetch: int) -> None:
    with pytest.raises(SettingsError):
        settings("rabbit", prefetch)


def test_the_password_does_not_show() -> None:
    assert "secret" not in repr(settings("rabbit"))


def test_with_tls_the_port_left_out_is_that_of_tls(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(Authority.new("any").pem)
    hosts = RabbitMqSettings(addresses="rabbit-1,rabbit-2:1", user="kme-1", password="", tls=tmp_path).hosts
    assert hosts == (("rabbit-1", 5671), ("rabbit-2", 1))


def test_certificates_that_cannot_be_used_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ca\.pem: cannot be read"):
        RabbitMqSettings(addresses="rabbit", user="kme-1", password="", tls=tmp_path)
