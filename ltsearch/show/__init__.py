"""What a person sees: the plan, progress, status."""
