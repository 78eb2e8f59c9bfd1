"""python -m bench PART...: measures, and writes docs/performance/results.json."""

from __future__ import annotations

import argparse
import json

from bench import against_broker


def main() -> None:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--relays", type=int, default=600)
    parser.add_argument("--keys", type=int, nargs="*", default=[1])
    parser.add_argument("--control", action="store_true")
    arguments = parser.parse_args()
    sizes = {keys: max(20, arguments.relays // max(1, keys // 64)) for keys in arguments.keys}
    print(json.dumps(against_broker.measure(sizes, arguments.rounds, control=arguments.control), indent=1))


if __name__ == "__main__":
    main()
