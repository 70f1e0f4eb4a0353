"""Loading models and processors, packed group forwards, token log-probabilities, and the bundled tiny models."""
