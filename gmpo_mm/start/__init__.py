"""What a newcomer types first: quickstart, init, configs, data."""
