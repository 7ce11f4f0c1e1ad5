"""JAX as a training backend of qat-engine."""
