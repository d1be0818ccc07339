"""Data-parallel training: W ranks train a LibMTL script as one process would, with any weighting.

No network is wrapped. At the interfaces of LibMTL's Trainer each rank loads its part of every batch
(``loaders``), computes the losses of all parts (``predictions``), and the ranks' gradients are
averaged (``averaging``, and in :mod:`libmtl_recon.gradients.exchange` where a weighting needs their
inner products). ``hook_table`` lists the places; without torchrun none of these hooks is installed.
"""
