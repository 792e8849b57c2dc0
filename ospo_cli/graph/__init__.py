"""The graph of stages, declared once: `ospo run`, dvc.yaml and the errors about missing files all read it."""
