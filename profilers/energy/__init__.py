"""Energy: models as data, the operations that they price, and what these cost."""
