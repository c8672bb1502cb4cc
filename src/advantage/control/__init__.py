"""The world of control: environments, networks, collection, evaluation. Gymnasium is imported here alone."""
