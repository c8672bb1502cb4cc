"""Gymnasium environments, networks, collection and evaluation: the world of control. Gymnasium is imported here alone."""
