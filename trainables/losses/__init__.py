"""Pure loss functions: tensors in, scalar out, no state, no configuration object.

``collaborative`` holds NCL++ as the paper writes it, ``official`` as its released code computes it.
"""
