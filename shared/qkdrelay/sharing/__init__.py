"""The mathematics of the relay: pure functions on bytes, with randomness handed in.

``gf256`` and ``gf128`` are the fields, ``shamir`` (and ``shamir_numpy`` for what is long) the sharing, ``amd`` the code
that makes a change to a share show, ``agreement`` what the shares of one split say together, ``decoding`` which of them
are false; ``work`` counts what that takes. Nothing here knows a plan, a broker, a file or a clock.
"""
