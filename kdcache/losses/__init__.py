"""What teacher and student minimise: `objectives` has the equations, `projection` the product with the vocabulary."""
