"""The results as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "qkdrelay"
import matplotlib.pyplot as plt  # noqa: E402 - the backend first


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw what is in ``results`` to an SVG file."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 8), layout="constrained")
    _broker(axes[0][0], results["broker"])
    _sharing(axes[0][1], results["sharing"]["2 of 3"])
    _link_key(axes[1][0], results["link_key"])
    _growth(axes[1][1], results["growth"]["batches"])
    figure.savefig(path, metadata={"Date": None})


def _broker(axes: Any, broker: dict[str, Any]) -> None:
    rates = broker["throughput"]
    keys = sorted(rates, key=int)
    axes.bar(keys, [rates[each]["ratio"] for each in keys])
    axes.axhline(0.6, linestyle="--", color="gray", label="target")
    axes.legend(fontsize="small")
    axes.set(title="Full stack / bare broker, same run", xlabel="keys per relay", ylabel="relays/s, ratio")


def _sharing(axes: Any, sharing: dict[str, Any]) -> None:
    for name, times in sharing.items():
        sizes = sorted(times, key=int)
        axes.loglog([*map(int, sizes)], [times[size]["split_us"] for size in sizes], marker="o", label=name)
    axes.set(title="Splitting, 2 of 3", xlabel="bytes", ylabel="microseconds")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))  # beside it: the lines need the room


def _link_key(axes: Any, rows: list[dict[str, Any]]) -> None:
    for suite in dict.fromkeys(row["suite"] for row in rows):
        mine = [row for row in rows if row["suite"] == suite]
        axes.loglog([row["keys"] for row in mine], [row["per_secret_byte"] for row in mine], marker="o", label=suite)
    axes.set(title="Link key drawn per byte of secret", xlabel="keys per relay", ylabel="bytes")
    axes.legend(fontsize="small")


def _growth(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.loglog([row["keys"] for row in rows], [row["cpu_ms"] for row in rows], marker="o")
    axes.set(title="CPU time of one relay, all nine services", xlabel="keys per relay", ylabel="ms")
