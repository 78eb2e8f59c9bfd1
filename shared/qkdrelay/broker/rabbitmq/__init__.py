"""RabbitMQ behind the broker port; the one package that imports pika."""

import logging

from qkdrelay.broker.rabbitmq.broker import RabbitMqBroker
from qkdrelay.broker.rabbitmq.client import RabbitMqClient
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

__all__ = ["RabbitMqBroker", "RabbitMqClient", "RabbitMqSettings"]

# pika logs frames, bodies included, when it is let; and a traceback for each attempt to connect.
# What matters of it is in this package's own events.
logging.getLogger("pika").setLevel(logging.CRITICAL)
