"""Softmax equalization loss."""
