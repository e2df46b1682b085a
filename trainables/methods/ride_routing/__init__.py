"""Routing diverse experts, stage 2."""
