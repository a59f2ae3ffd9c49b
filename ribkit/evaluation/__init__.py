"""Scores and their intervals. It imports nothing else of ribkit."""
