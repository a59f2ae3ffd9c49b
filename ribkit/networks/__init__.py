"""The classifier and the segmentation network, and the one way to train them."""
