"""Quantisers: latents to discrete codes and back, behind one interface (`base`).

vq       a codebook learned by moving averages; several heads make one token (product codes)
fsq      finite scalar quantisation: each dimension rounded to a few levels, nothing learned
lfq      lookup-free quantisation: the signs of the latent, kept in use by an entropy loss
"""
