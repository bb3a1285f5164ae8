"""Everything known about batch norm, whoever wrote it.

`affine` and `params` are arithmetic on numpy vectors and load no framework; the flavours are torch modules,
listed in `flavours.BATCHNORMS`.
"""
