"""What the code released with the paper (Nath et al., arXiv 2601.08403) does otherwise, for comparison: own rules and an own segmenter.

Preset `released` names them in params.yaml as a user names theirs; docs/maths.md, section "Released", lists the points.
"""
