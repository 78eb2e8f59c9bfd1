"""Where link key comes from, and how both ends of a link agree on blocks of it."""
