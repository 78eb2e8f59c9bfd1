"""The whole network in one process: the same node and coordinator code on the in-process broker."""
