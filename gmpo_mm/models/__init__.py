"""Loading models and processors, packed group forwards, and token log-probabilities."""
