"""What people use beside the graph: each reads the project, and no stage needs it."""
