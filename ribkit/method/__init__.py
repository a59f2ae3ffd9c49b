"""The method of the paper, Section 3 (arXiv:2110.06530), a file for each formula."""
