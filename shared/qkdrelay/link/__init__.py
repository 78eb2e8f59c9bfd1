"""One QKD link: where its key comes from, and how it seals what travels over it."""
