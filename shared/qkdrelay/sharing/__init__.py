"""The mathematics of the relay: pure functions on bytes, with randomness handed in.

``gf256`` and ``gf128`` are the fields, ``shamir`` the sharing, ``amd`` the code that makes a change to a
share show, ``agreement`` what the shares of one split say together, ``decoding`` which of them are false, and
``tree`` the recursion over a plan: what a KME hands on, and how the target rebuilds the secret; ``work`` counts
what that takes. Nothing here knows a broker, a file or a clock.
"""
