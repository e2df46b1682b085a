"""Routing diverse experts, stage 1."""
