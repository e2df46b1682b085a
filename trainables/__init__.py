"""What is trained: data, augmentation, backbones, experts, losses, methods, metrics and the epoch loop.

Knows nothing of Ray, Optuna or MLflow. Read ``training.py`` first.
"""
