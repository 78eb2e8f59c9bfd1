"""Keys for applications: supply from relays, and what is cut from it by assignments that both ends keep."""
