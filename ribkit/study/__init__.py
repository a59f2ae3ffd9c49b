"""The study: its settings, its stages, and the order in which they hang together."""
