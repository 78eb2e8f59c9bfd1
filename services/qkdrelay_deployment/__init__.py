"""Deployment of a network: compose file, secrets, certificates and RabbitMQ's configuration, from its topology."""
