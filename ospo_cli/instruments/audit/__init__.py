"""Can this credit be trusted? Estimators and gradients measured against what has a right answer."""
