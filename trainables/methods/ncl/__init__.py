"""Nested collaborative learning of CVPR 2022."""
