"""The messages of the protocol: typed, frozen, versioned; and their encoding, signatures and seals.

A message says nothing about who sent it: that is the exchange it came through, and the seal or
signature on it. Secret bytes travel only inside the ciphertext of a `SealedMessage` (and, where an
operator switched the lab on, of a `SealedLeak`).
"""
