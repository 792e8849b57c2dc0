"""The weights in motion: losses, batches, optimiser steps, checkpoints."""
