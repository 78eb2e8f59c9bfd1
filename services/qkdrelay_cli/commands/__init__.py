"""The commands of `coordinator`, one module a group."""
