"""Writing target texts with a trained student."""
