"""From a localisation map to pseudo ground truth: CRF, PSA, IRN, saliency."""
