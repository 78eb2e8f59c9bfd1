"""Keys for applications, as far as the coordinator has a part in them: it refills supply, and carries assignments."""
