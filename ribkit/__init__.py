"""The study of *Reducing Information Bottleneck for Weakly Supervised Semantic Segmentation*.

Lee, Choi, Mok, Yoon: NeurIPS 2021, arXiv 2110.06530. The notebooks tell the story, these modules
hold the formulas. Where a docstring says "paper" it means that text; "official" means the code the
authors released, which was read but not copied.
"""
