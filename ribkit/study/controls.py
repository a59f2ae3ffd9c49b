"""Controls: what looks like RIB's gain without a bottleneck, and where there is nothing to gain.

The rivals, which adapt nothing, are methods of the study like RIB (`Study.rivals`), and so is their
tuning. Here is what needs more: scenes of another kind.
"""

from functools import cache

from ribkit.study.study import Study


@cache
def doses(study: Study) -> dict[float, Study]:
    """Usual texture -> the same study of scenes whose bodies tell so much of their class.

    Where they tell nothing (0), the information that RIB is said to set free does not exist; where
    they tell all (1), there is most of it. Everything but the pretext task is trained and tuned
    anew. Photographs have only their own.
    """
    own = study.profile.usual_texture
    others = set(study.profile.ablations.usual_textures) - {own}
    found = {own: study}
    for dose in others:
        found[dose] = study.like(usual_texture=dose)
    return dict(sorted(found.items()))
