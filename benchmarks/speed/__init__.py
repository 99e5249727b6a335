"""Speed and memory of training, row by row of one table, against the float model, a plain copy, and other libraries."""
