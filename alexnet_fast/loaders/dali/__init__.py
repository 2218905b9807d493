"""DALI: the decoding, the crop, the flip and the normalisation on the GPU."""
