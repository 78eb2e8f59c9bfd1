"""The alerts and the handbook speak of metrics that exist, and leave none out."""

import re
from pathlib import Path

import pytest

from coordinator.lead import Lead
from coordinator.metrics import CoordinatorMetrics, watch_lead
from kme.etsi014.audit import Audit
from kme.metrics import KmeMetrics
from kme.supply.application_metrics import ApplicationMetrics
from qkdrelay.network.topology_file import reference_topology
from qkdrelay_page.board import Board
from qkdrelay_page.serving import viewers_metric

ROOT = Path(__file__).parents[2]
ALERTS = (ROOT / "infra" / "prometheus" / "alerts.yml").read_text()
SCRAPES = (ROOT / "infra" / "prometheus" / "prometheus.yml").read_text()
HANDBOOK = (ROOT / "docs" / "operating.md").read_text()


def of_a_kme():
    """The metrics of a KME that has applications."""
    metrics = KmeMetrics("kme-1", ["kme-2"])
    ApplicationMetrics(metrics)
    Audit("kme-1", metrics)
    return metrics


def of_a_coordinator(neighbours):
    """The metrics of one of two."""
    metrics = CoordinatorMetrics(neighbours)
    watch_lead(metrics, Lead(None))
    return metrics


def exposed():
    """The names of all metrics, counters with their suffix."""
    neighbours = reference_topology().neighbours
    registries = of_a_coordinator(neighbours).registry, of_a_kme().registry, viewers_metric(Board())
    families = [family for registry in registries for family in registry.collect()]
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def named(text):
    """The metrics a text speaks of; of a histogram, the family."""
    found = set(re.findall(r"`(qkdrelay_[a-z_]+)`" if text == HANDBOOK else r"qkdrelay_[a-z_]+", text))
    histograms = {name for name in found if name.endswith(("_bucket", "_count", "_sum"))}
    return (found - histograms) | {name.rpartition("_")[0] for name in histograms}


@pytest.mark.parametrize("text", [ALERTS, HANDBOOK])
def test_every_metric_that_is_named_exists(text):
    assert named(text)
    assert named(text) <= exposed()


def test_every_metric_is_explained():
    assert exposed() <= named(HANDBOOK)


def test_every_label_an_alert_asks_for_is_one_that_is_counted():
    pages = "".join(
        f"{sample.name}{sample.labels}\n"
        for metrics in (of_a_coordinator({"kme-1": ()}), of_a_kme())
        for family in metrics.registry.collect()
        for sample in family.samples
    )
    asked = re.findall(r'(qkdrelay_[a-z_]+)\{([a-z]+)="([a-z_]+)"\}', ALERTS)
    assert asked
    for name, label, value in asked:
        assert re.search(rf"{name}{{.*'{label}': '{value}'", pages), (name, label, value)


def test_every_alert_is_explained_and_no_other():
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert len(alerts) == len(set(alerts)) == ALERTS.count("expr:") == ALERTS.count("summary:")
    assert re.findall(r"^\| `([A-Z]\w+)` \|", HANDBOOK, re.MULTILINE) == alerts


def test_every_service_of_the_reference_network_is_scraped():
    scraped = re.findall(r"- ([a-z0-9-]+):9464", SCRAPES)
    assert scraped == ["coordinator", "page", *reference_topology().kmes]
