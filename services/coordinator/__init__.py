"""The coordinator: starts relays, collects their results, decides, and answers the command line."""
