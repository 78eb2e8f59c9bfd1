"""What a network needs to run: compose file, secrets, certificates, the broker's configuration."""
