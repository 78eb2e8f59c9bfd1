"""QKD devices as a KME meets them: whoever serves its end of a link over ETSI GS QKD 014."""
