"""What every service is made of: the loop, its durable journal, settings, logs, metrics, health."""
