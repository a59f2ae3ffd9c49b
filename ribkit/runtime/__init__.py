"""What runs a study and keeps its results. It knows no image and no network."""
