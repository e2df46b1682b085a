"""CAM-based sampling."""
