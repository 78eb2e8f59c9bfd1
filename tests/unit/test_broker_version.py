"""A broker of a version that is not supported is told from one that is, whatever it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.broker.rabbitmq.version import doubt, version_of


@pytest.mark.parametrize("version", ["3.10.0", "3.10.8", "3.13.7", "4.0.5", "4.0.0+2", "4.2.9", "4.2", "4.1.0-rc.1"])
def test_what_is_supported_is_not_doubted(version):
    assert doubt(version) is None


@pytest.mark.parametrize("version", ["3.9.29", "3.8", "2.7.1", "4.3.0", "4.3.5", "4.10.1", "5.0", "10.0.0", "40.1"])
def test_what_is_older_or_newer_is_named(version):
    assert doubt(version) == f"RabbitMQ {version} is not supported; supported are 3.10 to 4.2"


@pytest.mark.parametrize("version", ["", "unknown", "v4.0", "4", "99999999999.1", "\u0664.0"])
def test_what_is_no_version_is_told(version):
    assert "does not say of which version" in doubt(version) or "is not supported" in doubt(version)


@given(
    st.none() | st.dictionaries(st.just("version"), st.none() | st.binary() | st.text() | st.integers() | st.floats())
)
def test_whatever_a_broker_says_is_a_short_text(properties):
    version = version_of(properties)
    assert len(version) <= 40
    assert doubt(version) is None or "supported are 3.10 to 4.2" in doubt(version)
