"""Constants that every implementation of the operator shares."""

# A splat contributes where its Mahalanobis distance is at most this many
# standard deviations. One rule for all implementations and for the tile lists,
# so pictures have no seams and all renderers agree; at 3.5 the largest dropped
# weight is exp(-6.125) = 0.0022, half of a code value of 1/255.
CUTOFF_SIGMAS = 3.5

# The same rule for s = (distance ** 2) / 2, the exponent of the weight.
S_MAX = CUTOFF_SIGMAS**2 / 2
