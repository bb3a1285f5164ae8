"""From images to a network with final batch-norm statistics, and the file that keeps it."""
