"""The version, in a module of its own: what every layer may import."""

VERSION = "0.1.0"
