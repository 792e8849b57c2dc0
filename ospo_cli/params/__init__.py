"""Parameters: a module per section of params.yaml; `declare` says what a parameter is, `whole` reads and checks the file."""
