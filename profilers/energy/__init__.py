"""This package has energy models as data, the operations that they price, and what these cost."""
