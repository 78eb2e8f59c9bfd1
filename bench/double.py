"""python -m bench.double FOLDER SETTINGS: a pair of devices that serves both ends of one link, in a process of its own.

Prints its port, and at each line that it reads the bits of key that it has given; it ends where its input does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.device import Pair, serving


def main() -> None:
    """Serve until the input ends."""
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    pair = Pair(rate_bps=settings["rate_bps"], store_bits=settings["store_bits"])
    pair.size_bits = settings["size_bits"]
    with serving(pair, folder / "server", folder / "ca" / "ca.pem") as port:
        print(port, flush=True)
        for _ in sys.stdin:
            pair.asked.clear()
            print(json.dumps({sae: keys * pair.size_bits for sae, keys in pair.drawn.items()}), flush=True)


if __name__ == "__main__":
    main()
