"""Messages between services: a port, RabbitMQ behind it, and the same contract within one process."""
