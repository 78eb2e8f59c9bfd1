"""The interface for applications: ETSI GS QKD 014 over TLS with client certificates."""
