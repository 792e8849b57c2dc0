"""Small decision problems with exact expectations, and the quality of gradients: rules and estimators without a policy."""
