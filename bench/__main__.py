"""python -m bench [PART...]: measures, and writes docs/performance/."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from bench import (
    against_broker,
    applications,
    chains,
    devices,
    fifty_sites,
    growth,
    page,
    profiles,
    sites,
    supply,
    supply_stack,
)

FOLDER = Path(__file__).parents[1] / "docs" / "performance"
RESULTS = FOLDER / "results.json"
PARTS = (
    "broker",
    "chains",
    "applications",
    "page",
    "supply",
    "supply_stack",
    "devices",
    "sites",
    "fifty_sites",
    "sharing",
    "link_key",
    "growth",
    "profile",
    "plot",
)
LIBRARIES = (
    "cryptography",
    "msgspec",
    "numpy",
    "pika",
    "pycryptodome",
    "pyshamir",
    "shamir-mnemonic",
    "shamirs",
    "sslib",
)


def main() -> None:
    """Run the parts that are named, all by default; each keeps what the others found."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of each side (5)")
    parser.add_argument("--relays", type=int, default=1500, help="relays at once in a round of one key (1,500)")
    parser.add_argument("--keys", type=int, nargs="*", default=[1, 16, 256, 4096], help="keys per relay")
    parser.add_argument("--hours", type=float, default=1.0, help="of each simulated run of supply (1)")
    parser.add_argument("--control", action="store_true", help="the bare chain sends 8 control messages a relay, too")
    arguments = parser.parse_args()
    if wrong := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(wrong))}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    FOLDER.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in arguments.parts or PARTS:
        print(f"bench: {part}", flush=True)
        _run(part, arguments, results)
        results["machine"] = machine()
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(json.dumps(summary(results), indent=1))


def _run(part: str, arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    match part:
        case "broker":
            sizes = {keys: max(120, arguments.relays // max(1, keys // 128)) for keys in arguments.keys}
            found = against_broker.measure(sizes, arguments.rounds, control=arguments.control)
            results["broker_with_control" if arguments.control else "broker"] = found
        case "chains":
            results["chains"] = chains.measure(arguments.relays, arguments.rounds)
        case "applications":
            results["applications"] = applications.measure(arguments.rounds)
        case "page":
            results["page"] = page.measure(arguments.rounds)
        case "supply":
            results["supply"] = supply.measure(arguments.hours)
        case "supply_stack":
            results["supply_stack"] = supply_stack.measure()
        case "devices":
            results["devices"] = devices.measure(arguments.rounds)
        case "sites":
            results["sites"] = sites.measure(arguments.rounds)
        case "fifty_sites":
            results["fifty_sites"] = fifty_sites.measure()
        case "sharing":
            from bench import sharing  # noqa: PLC0415 - needs libraries that the other parts do not

            results["sharing"] = sharing.measure()
        case "link_key":
            results["link_key"] = growth.link_key()
        case "growth":
            results["growth"] = {
                "batches": growth.batches(),
                "relays_at_once": growth.at_once(),
                "age_of_the_store": growth.age(),
                "networks": growth.networks(),
                "memory": growth.memory(),
            }
        case "profile":
            profiles.write(FOLDER, arguments.relays)
        case "plot":
            from bench import plot  # noqa: PLC0415 - needs matplotlib

            plot.draw(json.loads(json.dumps(results)), FOLDER / "performance.svg")


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except ImportError:
            continue
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "rabbitmq_image": os.environ.get("QKDRELAY_RABBITMQ_IMAGE", ""),
        "load_average": os.getloadavg()[0],
        "libraries": versions,
    }


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Return the ratios that have targets."""
    broker = results.get("broker", {})
    return {
        "relays/s, stack over bare broker, by keys": {
            keys: round(rate["ratio"], 2) for keys, rate in broker.get("throughput", {}).items()
        },
        "latency p50, idle, stack over bare broker": round(broker.get("latency", {}).get("idle_p50_ratio", 0), 1),
        "link key over the plan's minimum, 256 keys": [
            round(row["over_minimum"], 3) for row in results.get("link_key", []) if row["keys"] == 256
        ],
    }


if __name__ == "__main__":
    main()
